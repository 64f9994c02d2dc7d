/* The answers side by side: the teacher's, the student's before, and each racer's after, as strips under one gate. A
   greedy answer that runs in a circle is called so, and a sampled one stands beside it. */

const { el, tr, visible } = SpecKD;
const LEAST_LOOP = 8; // tokens that repeat, at least, and
const ROUNDS = 2; // how often the piece must come again

function nameOf(answer, racer) {
  const after = racer ? `student after, ${racer.letter}` : "student after";
  return { teacher: "teacher", before: "student before", after }[answer.who] || answer.who;
}
function hueOf(answer, racer) {
  if (answer.who === "teacher") return "sk-teacher-text";
  if (answer.who === "before") return "";
  return `sk-racer-${racer ? racer.letter.toLowerCase() : "a"}`;
}

/* The piece that a text repeats over and over; "" where it repeats none. */
SpecKD.loopIn = function (tokens) {
  for (let period = 1; period <= tokens.length / ROUNDS; period++) {
    let run = 0;
    for (let i = period; i < tokens.length; i++) {
      run = tokens[i] === tokens[i - period] ? run + 1 : 0;
      if (run + period >= Math.max(LEAST_LOOP, ROUNDS * period)) return tokens.slice(i - period + 1, i + 1).join("");
    }
  }
  return "";
};

function answerCard(answer, racer, gate) {
  const trace = SpecKD.smallTrace(answer.trace || answer);
  const column = trace[SpecKD.GATES[gate.kind].column];
  const accepted = Uint8Array.from(trace.tokens, (_, t) => (column && column[t] <= gate.k ? 1 : 0));
  const rate = accepted.length ? accepted.reduce((sum, one) => sum + one, 0) / accepted.length : NaN;
  const how = answer.sampled ? tr("sampled") : tr("greedy");
  const name = nameOf(answer, racer);
  const tar = el("span", { class: "sk-small sk-muted sk-answer-tar", text: `TAR ${SpecKD.percent(rate)}` });
  const card = el(
    "div",
    { class: `sk-answer sk-answer-${answer.who}` },
    el(
      "div",
      { class: "sk-answer-head" },
      racer ? SpecKD.racerMark(racer.index) : null,
      el("h3", { class: hueOf(answer, racer), text: name }),
      el("span", { class: "sk-small sk-muted", text: how }),
      racer ? el("bdi", { class: "sk-muted sk-small", text: visible(racer.name) }) : null,
      answer.who === "teacher" ? null : tar,
    ),
  );
  const strip = SpecKD.createStrip(card, {
    label: `Answer of the ${name}, ${how}`,
    onHover: (t) => strip.setCursor(t),
    onPin: (t) => strip.setPinned(t),
  });
  strip.setTrace(trace);
  strip.paint({ accepted });
  const loop = answer.sampled ? "" : SpecKD.loopIn(trace.tokens);
  if (loop) card.append(loopNote(loop));
  return card;
}
function loopNote(loop) {
  const why = tr(
    "Small models do so when they always take their likeliest word; a sampled answer says something else.",
  );
  const piece = el("bdi", { text: visible(loop.trim()) });
  return el("p", { class: "sk-small sk-loop" }, tr("A loop, said over and over: "), piece, ". ", why);
}

/* Opened and closed by its button. */
SpecKD.createDistillAnswers = function (id) {
  const about = { id, hidden: true, "aria-label": "Answers side by side" };
  const box = el("section", { class: "sk-app-compare sk-answers", ...about });
  const button = SpecKD.revealButton("Compare answers", box);

  function show(run) {
    const told = run && run.revealed ? run.answers : null;
    button.disabled = !told;
    if (!told) {
      box.hidden = true;
      button.setAttribute("aria-expanded", "false");
      return;
    }
    if (box.dataset.of === run.key) return;
    box.dataset.of = run.key;
    const own = run.racers.map((one) => one.gate).find((one) => SpecKD.hasK(one.kind));
    const gate = { kind: own ? own.kind : "topk", k: (own && own.k) || SpecKD.DEFAULT_KNOBS.k };
    const marks = `the marks are those of ${SpecKD.GATES[gate.kind].label}, k = ${gate.k}.`;
    const grid = el("div", { class: "sk-answers-grid" });
    const prompt = el("bdi", { class: "sk-quote", text: visible(told.prompt || "") });
    const read = "Each answer is read by the teacher and by the student of that moment";
    const warning = tr(
      "On its own text TAR says how far the models agree; it is no mark for quality, a loop may have a high one.",
    );
    box.replaceChildren(
      el("div", { class: "sk-side-head" }, el("h2", {}, "Answers to ", prompt)),
      el("p", { class: "sk-small sk-muted", text: `${read}; ${marks}` }),
      el("p", { class: "sk-small", text: warning }),
      grid,
    );
    for (const answer of told.answers) grid.append(answerCard(answer, run.racers[answer.racer] || null, gate));
  }
  return { box, button, show };
};
