/* A training run as the page knows it: a list of events (types.d.ts) read into racers and their rows. A live run and a
   recorded one are read by the same code. */

SpecKD.RACERS = ["A", "B"];

const reals = (values) => (Array.isArray(values) ? values.map(SpecKD.real) : []);

/* What a strip needs of one text: a small trace. Takes a whole trace too. */
SpecKD.smallTrace = function (source) {
  const whole = source.divergence && !Array.isArray(source.divergence);
  const tvd = reals(whole ? source.divergence.tvd : source.tvd);
  const divergence = reals(whole ? source.divergence.forward_kl : source.divergence);
  return {
    tokens: source.tokens,
    topk_threshold: source.topk_threshold,
    speck_threshold: source.speck_threshold,
    divergence: { tvd, own: divergence },
    proposal: source.proposal || null,
  };
};

/* "topk:k=5:beta=0.01" -> {kind: "topk", k: 5, beta: 0.01} */
SpecKD.readGate = function (spec) {
  const [kind, ...rest] = String(spec || "none").replace(/\(.*/, "").split(":");
  const gate = { kind };
  for (const part of rest) {
    const [name, value] = part.split("=");
    if (/^\w+$/.test(name) && value !== undefined && value !== "" && Number.isFinite(Number(value))) {
      gate[name] = Number(value);
    }
  }
  return gate;
};

/* Whether a gate has a threshold k: then it can mark the tokens of any text. */
SpecKD.hasK = (kind) => kind === "topk" || kind === "speck";

/* In order of the step; a later word about one step replaces the earlier. */
function atStep(list, value) {
  let at = list.length;
  while (at > 0 && list[at - 1].step > value.step) at--;
  if (at > 0 && list[at - 1].step === value.step) list[at - 1] = value;
  else list.splice(at, 0, value);
}
function reached(run, i, step) {
  run.steps = Math.max(run.steps, step);
  if (run.start.in_turn) { // the racers alternate: the picture stays with the first
    run.newest = { racer: 0, step: Math.max(run.newest.step, step) };
    return;
  }
  if (i > run.newest.racer || step >= run.newest.step) run.newest = { racer: i, step };
}
const racerOf = (one, index) => ({
  index,
  letter: SpecKD.RACERS[index],
  name: SpecKD.told(one.name),
  spec: one.gate,
  gate: SpecKD.readGate(one.gate),
  rows: [],
  heldOut: [],
  probes: [],
  sayings: [],
});
const realsOf = (step, values) => ({
  ...Object.fromEntries(Object.entries(values).map(([name, value]) => [name, SpecKD.real(value)])),
  step,
});

/* What each kind of event tells a run. One of an unknown racer or an unknown kind tells nothing. */
const READ = {
  start(run, event) {
    run.start = event;
    run.steps = Number(event.steps) || 0;
    run.racers = event.racers.slice(0, 2).map(racerOf);
  },
  row(run, { racer, row }) {
    if (!run.racers[racer]) return;
    atStep(run.racers[racer].rows, realsOf(row.step, row));
    reached(run, racer, row.step);
  },
  held_out(run, { racer, step, scores }) {
    if (run.racers[racer]) atStep(run.racers[racer].heldOut, realsOf(step, scores));
  },
  probe(run, { racer, step, topk_threshold, speck_threshold, divergence, tvd, proposal }) {
    if (!run.racers[racer] || !run.start.probe) return;
    atStep(run.racers[racer].probes, {
      step,
      topk_threshold,
      speck_threshold,
      divergence: reals(divergence),
      tvd: reals(tvd),
      proposal: proposal || [],
    });
    reached(run, racer, step);
  },
  saying(run, { racer, step, text }) {
    if (run.racers[racer]) atStep(run.racers[racer].sayings, { step, text: String(text) });
  },
  answers(run, event) {
    run.answers = event;
  },
  verdict(run, event) {
    run.verdict = event;
  },
  kept(run, event) {
    run.kept = event;
  },
};

SpecKD.createRun = function () {
  const newest = { racer: 0, step: 0 };
  const bet = { divergence: null, acceptance: null };
  const run = { start: null, steps: 0, racers: [], answers: null, verdict: null, kept: null, n: 0, newest, bet, add };
  function add(events) {
    for (const event of events) {
      run.n += 1;
      if (Object.hasOwn(READ, event.kind) && (run.start || event.kind === "start")) READ[event.kind](run, event);
    }
    return run;
  }
  return run;
};

/* The last step of which a run has anything to show. */
SpecKD.reachedStep = (run) =>
  Math.max(0, ...run.racers.flatMap((one) => [...one.rows, ...one.probes].map((at) => at.step)));

/* The last of a list at or before a step. */
SpecKD.lastAt = function (list, step) {
  let found = null;
  for (const one of list) if (one.step <= step) found = one;
  return found;
};

/* A racer's line as a small sign: solid with a dot, dashed with a diamond. */
SpecKD.racerMark = (index) =>
  SpecKD.svg(
    "svg",
    {
      viewBox: "0 0 28 12",
      width: 28,
      height: 12,
      "aria-hidden": "true",
      class: `sk-racer-mark sk-racer-${"ab"[index]}`,
    },
    SpecKD.svg("path", { d: "M1 6H27", "stroke-dasharray": index ? "5 3" : null }),
    index
      ? SpecKD.svg("path", { class: "sk-racer-dot", d: "M14 2L18 6L14 10L10 6Z" })
      : SpecKD.svg("circle", { class: "sk-racer-dot", cx: 14, cy: 6, r: 3.5 }),
  );
