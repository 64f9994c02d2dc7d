/* The Distill page: a short training run that a visitor starts, watches and takes home.

   One line of controls; then three charts, the probe below them, and the figures beside them. All of it shows one moment
   of one run: the scrubber, a click into a chart and a click on a row of the probe all move to another. Before anything
   is started a recorded run plays. The server streams a run as events; what was missed is asked for again. */
const POLL = 800; // milliseconds between two looks at the loading of the models
const STOP_PATIENCE = 700; // milliseconds until Stop no longer waits for the server's last word
const BETWEEN_PAINTS = 150; // milliseconds
const SLOWEST_PAINT = 2000;
const LONGEST_FRAME = 120;
const PLAY = 6000; // milliseconds that a recorded run plays
const LONGEST_LINK = 1500; // characters of pasted prompts that still fit an address
const DEFAULTS = {
  student: "young",
  teacher: "packaged",
  data: "shipped",
  text: "",
  responses: "file",
  gates: ["topk:k=5:beta=0.01", "none"],
  steps: 24,
  batch_size: 4,
  learning_rate: 0.001,
  lora_rank: 64,
  seed: 0,
};
const NUMBERS = ["steps", "batch_size", "learning_rate", "lora_rank", "seed"];
const ADDRESS = {
  student: "student",
  teacher: "teacher",
  data: "data",
  responses: "responses",
  steps: "steps",
  batch: "batch_size",
  lr: "learning_rate",
  rank: "lora_rank",
  seed: "seed",
};
const GATE_LABELS = {
  topk: "Top-k",
  speck: "Spec-k",
  none: "all open (plain)",
  hellinger: "Hellinger weight",
  adakd: "AdaKD",
  student_entropy: "student entropy",
  teacher_entropy: "teacher entropy",
  random: "random tokens",
};
const WITH_K = ["topk", "speck"];
const SOURCES = { shipped: "the shipped prompts", pasted: "prompts of your own", uploaded: "a file of your own" };
const RESPONSES = {
  file: "the file, as they stand",
  teacher: "the teacher",
  student: "the student, as it trains",
  mixed: "half student, half file",
};
const MOVING = ["waiting", "loading", "preparing", "training"];
const ENDED = ["done", "stopped", "failed"];
const three = (
  x,
) => (Number.isFinite(x) && Math.abs(x) >= 0.01 && Math.abs(x) < 1000 ? x.toPrecision(3) : SpecKD.number(x)); // figures of one width
const FIGURES = [
  ["tar", "TAR", (x) => SpecKD.percent(x), ["gate", "the token acceptance rate"]],
  ["loss", "loss, nats", three, null],
  ["divergence", "ungated divergence, nats", three, ["divergences", "divergences"]],
  ["masked_share", "masked away", (x) => SpecKD.percent(Math.max(0, x)), ["curriculum", "what the gate masks"]],
  ["tokens_per_second", "tokens a second", (x) => SpecKD.number(x), ["speed", "what a step costs"]],
  ["learning_rate", "learning rate", (x) => SpecKD.number(x, 2), null],
];
const HELD_OUT = [
  ["divergence", "divergence, nats", three],
  ["tar", "TAR", (x) => SpecKD.percent(x)],
  ["acceptance", "one draw passes", (x) => SpecKD.percent(x)],
  ["agreement", "same first choice", (x) => SpecKD.percent(x)],
  ["rouge_l", "ROUGE-L", three],
];
let serial = 0;

SpecKD.createDistiller = function (
  root,
  {
    trigger,
    server,
    plotly,
    charts,
    limits = {},
    students = {},
    gates = [],
    recorded = [],
    defaults = {},
    own_models: ownModels = false,
  },
) {
  const { el, number, percent } = SpecKD;
  const id = `sk-distiller-${++serial}`;
  const address = serial === 1 && SpecKD.address ? SpecKD.address : null; // one page of its kind owns the address
  const initial = { ...DEFAULTS, ...defaults };
  const form = { ...initial, gates: [...initial.gates] };
  let fileName = ""; // of the uploaded data
  let shown = null; // the run on screen
  let live = null; // {id, run, state, timer, missed, asking}: the visitor's own, under way or ended
  let moment = 0;
  let following = true; // the newest step of a live run
  let racerChosen = false;
  let play = null; // {frame} while a recorded run plays
  let booted = false;
  let keys = 0;
  const sent = new Set(); // students that Inspect knows already

  /* --- the page ---------------------------------------------------------------------------------------------------- */

  const settingsButton = el("button", {
    type: "button",
    class: "sk-button sk-quiet sk-icon-button",
    "aria-label": "Settings: data, responses, learning rate, batch, seed",
    title: "Settings",
    "aria-expanded": "false",
    "aria-controls": `${id}-drawer`,
  }, SpecKD.icon("M2 4h12M2 8h12M2 12h12"));
  const student = el("select", { class: "sk-select", id: `${id}-student`, "data-field": "student" });
  for (const [value, text] of Object.entries(students)) {
    student.append(el("option", { value, text: SpecKD.visible(String(text)) }));
  }
  if (ownModels) student.append(el("option", { value: "own", text: "models of your own" }));
  const racers = [0, 1].map(makeRacer);
  const steps = el("input", {
    type: "number",
    class: "sk-number",
    id: `${id}-steps`,
    "data-field": "steps",
    min: 1,
    max: limits.steps || null,
    step: 1,
    inputmode: "numeric",
  });
  const startButton = el("button", { type: "submit", class: "sk-button sk-primary sk-run", text: "Start" });
  const top = el(
    "form",
    { class: "sk-top sk-distill-top", novalidate: true },
    el("h1", { class: "sk-hidden", text: "Distill a student" }),
    settingsButton,
    el("label", { class: "sk-field", for: student.id }, "student", student),
    el("label", { class: "sk-field", for: steps.id }, "steps", steps),
    racers[0].node,
    racers[1].node,
    startButton,
  );

  const chip = el("span", { class: "sk-chip sk-chip-recorded" });
  const pick = el("select", { class: "sk-select sk-small", "aria-label": "Recorded run", hidden: true });
  const caption = el("span", { class: "sk-caption-text" });
  const playButton = el("button", { type: "button", class: "sk-button sk-quiet sk-icon-button sk-play" });
  const scrubber = el("input", {
    type: "range",
    class: "sk-slider sk-scrubber",
    min: 0,
    max: 1,
    step: 1,
    value: 0,
    "aria-label": "Step of the run",
  });
  const stepShown = el("output", { class: "sk-scrubber-step", for: `${id}-scrubber` });
  scrubber.id = `${id}-scrubber`;
  const bar = el("div", { class: "sk-progress sk-distill-progress", "aria-hidden": "true" }, el("div", {}));
  const captionRow = el(
    "div",
    { class: "sk-caption sk-distill-caption" },
    chip,
    pick,
    caption,
    el("div", { class: "sk-scrub" }, playButton, scrubber, stepShown),
  );

  const raceBox = el("div", { class: "sk-race-box" });
  const probeBox = el("div", { class: "sk-probe-outer" });
  const status = el("span", { class: "sk-status-text" });
  const spoken = el("span", { class: "sk-hidden", role: "status" });
  const statusBox = el("div", { class: "sk-status" }, status, spoken);
  const compareButton = el("button", {
    type: "button",
    class: "sk-button sk-quiet",
    "aria-expanded": "false",
    "aria-controls": `${id}-answers`,
    text: "Compare answers",
  });
  const keepButton = el("button", { type: "button", class: "sk-button sk-quiet", text: "Keep" });
  const foot = el("div", { class: "sk-foot" }, statusBox, compareButton, keepButton);
  const main = el("div", { class: "sk-distill-main" }, raceBox, probeBox);
  const side = el("aside", { class: "sk-distill-side", "aria-label": "Figures of the run" });
  const answersBox = el("section", {
    class: "sk-app-compare sk-answers",
    id: `${id}-answers`,
    hidden: true,
    "aria-label": "Answers side by side",
  });
  const drawer = makeDrawer();
  const app = el(
    "div",
    { class: "sk-app sk-distill" },
    top,
    captionRow,
    bar,
    el("div", { class: "sk-distill-grid" }, main, side, foot),
    answersBox,
    drawer,
  );
  root.append(app);
  const keep = SpecKD.popup(keepButton, "sk-popup-keep");

  const race = SpecKD.createRace(raceBox, {
    plotly,
    figures: charts,
    height: 148,
    onStep: (step) => goTo(step),
    lessons: {
      loss: ["imitate", "the loss"],
      divergence: ["divergences", "divergences"],
      tar: ["gate", "the token acceptance rate"],
    },
  });
  const probe = SpecKD.createProbe(probeBox, {
    onMoment: (step) => goTo(step),
    onRacer: () => {
      racerChosen = true;
    },
    lessons: { probe: ["curriculum", "the implicit curriculum"] },
  });
  const parts = makeSide();

  /* --- the controls ------------------------------------------------------------------------------------------------- */

  function makeRacer(index) {
    const letter = SpecKD.RACERS[index];
    const gate = el("select", {
      class: "sk-select",
      id: `${id}-gate-${index}`,
      "data-field": `gate-${index}`,
      "aria-label": `Gate of racer ${letter}`,
    });
    const options = gates.length ? gates : ["topk", "speck", "none"];
    const seen = new Set();
    for (const option of options) {
      const spec = typeof option === "string" ? option : option.value || option.gate || option.name;
      const { kind } = SpecKD.readGate(spec);
      if (seen.has(kind)) continue;
      seen.add(kind);
      gate.append(
        el("option", {
          value: kind,
          text: (typeof option === "object" && option.label) || GATE_LABELS[kind] || kind,
          "data-spec": String(spec).includes(":") ? spec : "",
        }),
      );
    }
    if (index) gate.append(el("option", { value: "", text: "no second racer" }));
    const k = el("input", {
      type: "number",
      class: "sk-number sk-racer-k",
      id: `${id}-k-${index}`,
      "data-field": `k-${index}`,
      min: 1,
      max: SpecKD.K_MAX,
      step: 1,
      inputmode: "numeric",
      "aria-label": `k of racer ${letter}`,
    });
    const kBox = el("label", { class: "sk-field", for: k.id }, el("span", { class: "sk-symbol", text: "k" }), k);
    const node = el(
      "div",
      { class: `sk-racer sk-racer-${letter.toLowerCase()}`, role: "group", "aria-label": `Racer ${letter}` },
      SpecKD.racerMark(index),
      el("b", { text: letter }),
      gate,
      kBox,
    );
    return { node, gate, k, kBox };
  }

  function makeDrawer() {
    const field = (label, input, hint) =>
      el(
        "div",
        { class: "sk-drawer-field" },
        el("label", { for: input.id, text: label }),
        input,
        hint ? el("p", { class: "sk-small sk-muted", text: hint }) : null,
      );
    const make = (tag, name, attributes) =>
      el(tag, {
        id: `${id}-${name}`,
        "data-field": name,
        class: tag === "select" ? "sk-select" : "sk-text",
        ...attributes,
      });
    const radios = (name, legend, choices) => {
      const set = el("fieldset", { class: "sk-drawer-field" }, el("legend", { text: legend }));
      for (const [value, text] of Object.entries(choices)) {
        set.append(
          el(
            "label",
            { class: "sk-radio" },
            el("input", { type: "radio", name: `${id}-${name}`, value, "data-field": name }),
            " " + text,
          ),
        );
      }
      return set;
    };
    const file = el("input", {
      type: "file",
      accept: ".jsonl,.json,.txt,application/json,text/plain",
      class: "sk-hidden",
      tabindex: "-1",
      "aria-label": "Data file",
      "data-field": "file",
    });
    const choose = el("button", {
      type: "button",
      class: "sk-button",
      text: "Choose a file…",
      onclick: () => file.click(),
    });
    const fileSays = el("p", { class: "sk-small sk-muted sk-file-says" });
    file.addEventListener("change", () => {
      const [chosen] = file.files;
      file.value = "";
      if (chosen) readFile(chosen);
    });
    const close = el("button", {
      type: "button",
      class: "sk-button sk-quiet sk-icon-button",
      "aria-label": "Close settings",
    }, SpecKD.icon("M4 4l8 8M12 4l-8 8"));
    const own = el(
      "div",
      { class: "sk-own", hidden: true },
      field(
        "Teacher",
        make("input", "teacher", { type: "text", spellcheck: "false", placeholder: "Qwen/Qwen2.5-1.5B-Instruct" }),
      ),
      field(
        "Student",
        make("input", "own", { type: "text", spellcheck: "false", placeholder: "Qwen/Qwen2.5-0.5B-Instruct" }),
        "Hub ids or folders with safetensors; both need one vocabulary.",
      ),
    );
    const pasted = el(
      "div",
      { class: "sk-given sk-pasted", hidden: true },
      field(
        "Prompts, one a line",
        make("textarea", "text", { rows: 6, dir: "auto", spellcheck: "false" }),
        `Up to ${size(most())}; the teacher or the student writes the answers.`,
      ),
    );
    const uploaded = el(
      "div",
      { class: "sk-given sk-uploaded", hidden: true },
      choose,
      file,
      fileSays,
      el("p", {
        class: "sk-small sk-muted",
        text: `JSONL, one object a line: {"prompt": …, "response": …}, up to ${
          size(most())
        }. It is read here and sent as text.`,
      }),
    );
    const rank = el(
      "div",
      { class: "sk-rank" },
      field(
        "LoRA rank of the fresh adapter",
        make("input", "lora_rank", {
          type: "number",
          min: 1,
          max: limits.rank || null,
          step: 1,
          inputmode: "numeric",
        }),
        "Young and healed students train the adapter that they have.",
      ),
    );
    const panel = el(
      "aside",
      { class: "sk-drawer", id: `${id}-drawer`, "aria-label": "Settings", hidden: true },
      el("div", { class: "sk-drawer-head" }, el("h2", { text: "Settings" }), close),
      el("p", { class: "sk-small sk-muted", text: "These count from the next Start on." }),
      own,
      radios("data", "Learn from", SOURCES),
      pasted,
      uploaded,
      radios("responses", "Responses written by", RESPONSES),
      field(
        "Learning rate",
        make("input", "learning_rate", { type: "number", min: 0, step: "any", inputmode: "decimal" }),
        "The highest; it warms up and then falls.",
      ),
      field(
        "Examples a step",
        make("input", "batch_size", {
          type: "number",
          min: 1,
          max: limits.batch || null,
          step: 1,
          inputmode: "numeric",
        }),
      ),
      field(
        "β, weight of a rejected token",
        make("input", "beta", { type: "number", min: 0, max: 1, step: 0.01, inputmode: "decimal" }),
        "Of Top-k and Spec-k, for both racers. 0 masks it wholly.",
      ),
      rank,
      field(
        "Seed",
        make("input", "seed", { type: "number", min: 0, step: 1, inputmode: "numeric" }),
        "Both racers start alike and see the same batches.",
      ),
    );
    close.addEventListener("click", () => open(false));
    panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape") open(false);
    });
    settingsButton.addEventListener("click", () => open(panel.hidden));
    function open(yes) {
      panel.hidden = !yes;
      settingsButton.setAttribute("aria-expanded", String(yes));
      (yes ? close : settingsButton).focus();
    }
    return panel;
  }
  function most() {
    return limits.bytes || 1_000_000;
  }
  function size(bytes) {
    return bytes >= 1e6 ? `${number(bytes / 1e6, 2)} MB` : `${number(bytes / 1e3, 2)} kB`;
  }

  const input = (name) => app.querySelector(`#${id}-${name}`);
  const radio = (name) => drawer.querySelector(`input[name="${id}-${name}"]:checked`);
  const numeric = (name) => (input(name).value === "" ? null : Number(input(name).value));

  async function readFile(chosen) {
    if (chosen.size > most()) {
      say(
        "failed",
        `${chosen.name.slice(0, 60)} has ${size(chosen.size)} and the limit here is ${size(most())}: take fewer lines.`,
        null,
      );
      return;
    }
    try {
      form.text = await chosen.text();
      fileName = chosen.name.slice(0, 60);
      showForm();
      changed();
    } catch {
      say("failed", "The file could not be read here. Nothing was changed.", null);
    }
  }

  function readForm() {
    const own = student.value === "own";
    form.teacher = own ? input("teacher").value.trim() : "packaged";
    form.student = own ? input("own").value.trim() : student.value;
    const data = radio("data").value;
    if (data !== form.data) {
      form.text = "";
      fileName = "";
      if (data === "pasted" && ["file", "mixed"].includes(radio("responses").value)) check("responses", "teacher"); // prompts alone have no answers
      if (data === "shipped" && form.data === "pasted") check("responses", initial.responses);
      form.data = data;
    } else if (data === "pasted") form.text = input("text").value;
    form.responses = radio("responses").value;
    for (const name of NUMBERS) form[name] = numeric(name);
    const beta = fitting(input("beta"), (x) => x >= 0 && x <= 1, "beta");
    form.gates = racers.map(({ gate, k }, i) => {
      if (!gate.value) return null;
      const before = SpecKD.readGate(form.gates[i]);
      if (WITH_K.includes(gate.value)) {
        return `${gate.value}:k=${
          fitting(k, (x) => Number.isInteger(x) && x >= 1 && x <= SpecKD.K_MAX, `k-${i}`)
        }:beta=${beta}`;
      }
      return before.kind === gate.value && form.gates[i]
        ? form.gates[i]
        : gate.selectedOptions[0].dataset.spec || gate.value;
    }).filter((spec) => spec !== null);
    arrange();
  }
  /* What is in the field; while that is no proper value, the last one that was. */
  const proper = {};
  function fitting(node, fits, name) {
    const x = node.value === "" ? NaN : Number(node.value);
    node.setAttribute("aria-invalid", String(!fits(x)));
    if (fits(x)) proper[name] = x;
    return proper[name];
  }
  function check(name, value) {
    for (const one of drawer.querySelectorAll(`input[name="${id}-${name}"]`)) one.checked = one.value === value;
  }
  function arrange() {
    const own = student.value === "own";
    drawer.querySelector(".sk-own").hidden = !own;
    drawer.querySelector(".sk-pasted").hidden = form.data !== "pasted";
    drawer.querySelector(".sk-uploaded").hidden = form.data !== "uploaded";
    drawer.querySelector(".sk-file-says").textContent = fileName
      ? `${fileName}, ${size(form.text.length)}`
      : "No file yet.";
    drawer.querySelector(".sk-rank").hidden = !own && student.value !== "raw";
    racers.forEach(({ gate, k, kBox, node }) => {
      const withK = WITH_K.includes(gate.value);
      kBox.classList.toggle("sk-gone", !withK);
      k.disabled = !withK;
      node.classList.toggle("sk-racer-none", !gate.value);
    });
  }
  function showForm() {
    const own = form.teacher !== "packaged" || !Object.hasOwn(students, form.student);
    student.value = own && ownModels ? "own" : form.student;
    if (student.selectedIndex < 0) student.selectedIndex = 0;
    if (own && ownModels) {
      input("teacher").value = form.teacher;
      input("own").value = form.student;
    }
    racers.forEach(({ gate, k }, i) => {
      const known = SpecKD.readGate(form.gates[i]);
      gate.value = form.gates[i] ? known.kind : i ? "" : "topk";
      if (gate.selectedIndex < 0) gate.selectedIndex = 0;
      k.value = String(known.k || 5);
      proper[`k-${i}`] = Number(k.value);
      k.setAttribute("aria-invalid", "false");
    });
    const withBeta = form.gates.map(SpecKD.readGate).find((gate) => gate.beta !== undefined);
    proper.beta = withBeta ? withBeta.beta : 0.01;
    input("beta").value = String(proper.beta);
    for (const name of NUMBERS) {
      input(name).value = form[name] === null || form[name] === undefined ? "" : String(form[name]);
    }
    check("data", form.data);
    check("responses", form.responses);
    input("text").value = form.data === "pasted" ? form.text : "";
    arrange();
  }
  function changed() {
    remember();
  }
  for (const node of [top, drawer]) {
    node.addEventListener("input", () => {
      readForm();
      changed();
    });
    node.addEventListener("change", () => {
      readForm();
      changed();
    });
  }

  /* --- start and stop ------------------------------------------------------------------------------------------------ */

  const underWay = () => live !== null && live.waiting;

  top.addEventListener("submit", (event) => {
    event.preventDefault();
    if (underWay()) stop();
    else start();
  });

  function start() {
    readForm();
    const name = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join(
      "",
    );
    if (live) clearTimeout(live.timer);
    live = {
      id: name,
      run: newRun("live"),
      state: "waiting",
      waiting: true,
      timer: 0,
      missed: [],
      asking: false,
      secondsLeft: null,
      pasted: form.data === "pasted",
    };
    halt();
    following = true;
    racerChosen = false;
    startButton.textContent = "Stop";
    startButton.classList.add("sk-stop");
    app.classList.add("sk-waiting");
    say("waiting", "Asking.", null);
    remember();
    trigger("run", { run: name, request: { ...form, gates: [...form.gates] } });
  }
  function stop() {
    const stopping = live;
    stopping.stopped = true;
    say("waiting", "Stopping after this step.", null);
    server.stop(stopping.id).catch(() => {});
    stopping.timer = setTimeout(() => {
      if (live === stopping && stopping.waiting) release();
    }, STOP_PATIENCE);
  }
  /* The button is for starting again; what the server still says of the run is heard all the same. */
  function release() {
    clearTimeout(live.timer);
    live.waiting = false;
    startButton.textContent = "Start";
    startButton.classList.remove("sk-stop");
    app.classList.remove("sk-waiting");
    showScrubber();
  }

  function say(state, text, share) {
    status.textContent = text;
    statusBox.dataset.state = state;
    if (["done", "stopped", "failed", "ready"].includes(state)) spoken.textContent = text;
    const moving = MOVING.includes(state);
    bar.classList.toggle("sk-moving", moving);
    bar.classList.toggle("sk-unknown", moving && (share === null || share === undefined));
    bar.firstChild.style.transform = `scaleX(${moving && share ? share : 0})`;
  }

  function update(value) {
    if (!booted) {
      booted = true;
      return boot(value);
    }
    if (!live || value.run !== live.id) return undefined; // the last words of a run that nobody waits for
    const { state } = value;
    live.state = state;
    live.secondsLeft = Number.isFinite(value.seconds_left) ? value.seconds_left : null;
    const left = state === "training" && live.secondsLeft !== null && !/left/.test(value.text || "")
      ? ` About ${duration(live.secondsLeft)} left.`
      : "";
    if (ENDED.includes(state)) {
      release();
      say(state, value.text || "", null);
    } else if (!live.stopped) say(state, (value.text || "") + left, value.share);
    if (typeof value.from === "number") {
      live.missed.push({ from: value.from, events: value.events ? JSON.parse(value.events) : [] });
      catchUp();
    }
    tellSide();
    return undefined;
  }
  const duration = (
    seconds,
  ) => (seconds >= 90 ? `${Math.round(seconds / 60)} min` : `${Math.max(1, Math.round(seconds))} s`);

  /* Events come with the place of the first. Where some are missing, the server's log is asked once for all of them. */
  function catchUp() {
    const mine = live;
    const { run } = mine;
    mine.missed.sort((a, b) => a.from - b.from);
    let grown = false;
    while (mine.missed.length && mine.missed[0].from <= run.n) {
      const { from, events } = mine.missed.shift();
      const fresh = events.slice(run.n - from);
      if (fresh.length) {
        run.add(fresh);
        grown = true;
      }
    }
    if (grown) grew();
    if (!mine.missed.length || mine.asking) return;
    mine.asking = true;
    server.log({ run: mine.id, from: run.n }).then((answer) => {
      mine.asking = false;
      if (live !== mine || !answer || !answer.events) return;
      const before = run.n;
      mine.missed.push({
        from: Number.isInteger(answer.from) ? answer.from : before,
        events: JSON.parse(answer.events),
      });
      const reachable = mine.missed.some((one) => one.from <= run.n && one.from + one.events.length > run.n);
      if (reachable) catchUp();
    }, () => {
      mine.asking = false;
    });
  }

  /* Rows of a fast machine come quicker than anybody can read or this browser can draw: they are drawn together, and
     drawing takes a quarter of the time at most, so that a click is always heard. */
  let painting = false;
  let wanted = false;
  function grew() {
    wanted = true;
    if (painting) return;
    painting = true;
    const begun = performance.now();
    wanted = false;
    paintGrown();
    const rest = () =>
      setTimeout(() => {
        painting = false;
        if (wanted) grew();
      }, Math.max(BETWEEN_PAINTS, 3 * (performance.now() - begun)));
    Promise.race([race.drawn(), new Promise((done) => setTimeout(done, SLOWEST_PAINT))]).then(rest, rest); // no frames, no charts: a hidden page
  }
  function paintGrown() {
    if (!live || !live.run.start) return;
    const { run } = live;
    if (shown !== run) {
      shown = run;
      app.classList.remove("sk-waiting");
      describe();
    }
    if (following) moment = run.newest.step;
    paint();
  }

  /* --- the moment that everything shows -------------------------------------------------------------------------------- */

  const isLive = () => live !== null && shown === live.run;
  const until = () => (play ? moment : Infinity);
  const reached =
    () => (shown
      ? Math.max(0, ...shown.racers.flatMap((one) => [...one.rows, ...one.probes].map((at) => at.step)))
      : 0);

  function paint() {
    if (!shown) return;
    const wanted = isLive() && following && !racerChosen ? shown.newest.racer : null;
    race.show(shown, { step: moment, until: until() });
    probe.show(shown, { step: moment, upTo: until(), racer: wanted });
    showScrubber();
    tellSide();
    tellAnswers();
    root.dataset.events = String(shown.n);
    root.dataset.moment = String(moment);
  }
  function setMoment(step) {
    moment = step;
    race.setMoment(moment, until());
    probe.setMoment(moment, until());
    showScrubber();
    tellNow();
    root.dataset.moment = String(moment);
  }
  function goTo(step) {
    if (!shown) return;
    halt();
    const newest = isLive() ? shown.newest.step : reached();
    following = isLive() && step >= newest && shown.newest.step === newest;
    setMoment(Math.max(0, Math.min(step, reached())));
  }
  scrubber.addEventListener("input", () => goTo(Number(scrubber.value)));

  function showScrubber() {
    const last = Math.max(1, shown ? Math.max(shown.steps, reached()) : 1);
    scrubber.max = String(last);
    scrubber.value = String(moment);
    scrubber.style.setProperty("--at", `${(moment / last) * 100}%`);
    scrubber.setAttribute("aria-valuetext", `step ${moment} of ${last}`);
    stepShown.textContent = `step ${moment} of ${shown ? last : 0}`;
    const playing = play !== null;
    const word = playing ? "Pause" : "Play the run";
    if (playButton.getAttribute("aria-label") !== word) {
      playButton.setAttribute("aria-label", word);
      playButton.title = word;
      playButton.replaceChildren(SpecKD.icon(playing ? "M5.5 3.5v9M10.5 3.5v9" : "M5 3l7.5 5L5 13z"));
    }
    playButton.disabled = !shown || (underWay() && isLive());
    scrubber.disabled = !shown;
    playButton.classList.toggle("sk-gone", underWay() && isLive());
  }

  function halt() {
    if (!play) return;
    cancelAnimationFrame(play.frame);
    play = null;
    setMoment(moment);
  }
  function begin() {
    if (!shown || !reached()) return;
    halt();
    const last = reached();
    const from = moment >= last ? 0 : moment;
    const mine = play = { frame: 0 };
    let elapsed = 0;
    let before = null;
    const tick = (now) => {
      if (play !== mine) return;
      if (before !== null) elapsed += Math.min(now - before, LONGEST_FRAME); // a browser that is busy shows every step too
      before = now;
      const step = Math.min(last, from + Math.floor((elapsed / PLAY) * last));
      if (step !== moment) setMoment(step);
      if (step < last) mine.frame = requestAnimationFrame(tick);
      else halt();
    };
    setMoment(from);
    race.drawn().then(() => {
      if (play === mine) mine.frame = requestAnimationFrame(tick);
    });
  }
  playButton.addEventListener("click", () => {
    if (play) halt();
    else begin();
    showScrubber();
  });

  /* --- the side: figures now, held-out figures, what happened, what to do with it ---------------------------------------- */

  function makeSide() {
    const made = {
      verdict: el("section", { class: "sk-outcome", hidden: true, "aria-label": "What happened" }),
      send: el("div", { class: "sk-after-buttons", hidden: true }),
      now: el("section", { class: "sk-now", "aria-label": "Figures at this step" }),
      held: el("section", { class: "sk-held", "aria-label": "Held-out figures" }),
      after: el("section", { class: "sk-after", hidden: true, "aria-label": "Take it home" }),
      words: el(
        "section",
        { class: "sk-words sk-small" },
        el(
          "p",
          { class: "sk-muted" },
          "Each row of the probe reads the same held-out answer again, some steps later. Hatched tokens are those that the gate rejects: as the student learns there are fewer, and what it may learn from grows.",
        ),
        el(
          "p",
          { class: "sk-muted sk-words-links" },
          "Learn: ",
          lessonLink("gate", "the gate"),
          " · ",
          lessonLink("curriculum", "the implicit curriculum"),
          " · ",
          lessonLink("when-not", "when not to gate"),
        ),
      ),
    };
    side.append(made.verdict, made.send, made.now, made.held, made.after, made.words);
    return made;
  }
  function lessonLink(lesson, text) {
    const link = SpecKD.lesson(lesson, text);
    link.className = "sk-link";
    link.textContent = text;
    link.removeAttribute("aria-label");
    return link;
  }
  const racerHead = (one) =>
    el(
      "th",
      { scope: "col", class: `sk-num sk-racer-${one.letter.toLowerCase()}`, title: SpecKD.visible(one.name) },
      SpecKD.racerMark(one.index),
      el("b", { text: one.letter }),
    );

  /* The table is made once a run; later only its figures change, so that a focus in it stays. */
  let nowTable = null; // {key, title, left, cells}
  function makeNow() {
    const title = el("h2", {});
    const left = el("span", { class: "sk-muted sk-left" });
    const cells = [];
    const body = el("tbody", {});
    for (const [name, text, , lesson] of FIGURES) {
      const line = shown.racers.map(() => el("td", { class: "sk-num" }));
      cells.push(line);
      body.append(
        append(
          el(
            "tr",
            { class: `sk-figure-${name}` },
            el("th", { scope: "row" }, text, lesson ? SpecKD.lesson(...lesson) : null),
          ),
          line,
        ),
      );
    }
    parts.now.replaceChildren(
      el(
        "table",
        { class: "sk-figures" },
        el("thead", {}, append(el("tr", {}, el("td", {}, title, left)), shown.racers.map(racerHead))),
        body,
      ),
    );
    return { key: shown.key, title, left, cells };
  }
  function tellNow() {
    if (!shown || !shown.start) return;
    if (!nowTable || nowTable.key !== shown.key) nowTable = makeNow();
    const now = shown.racers.map((one) => SpecKD.lastAt(one.rows, moment));
    nowTable.title.textContent = `At step ${moment}`;
    nowTable.left.textContent = underWay() && isLive() && live.secondsLeft !== null
      ? ` ${duration(live.secondsLeft)} left`
      : "";
    FIGURES.forEach(([name, , show], row) =>
      now.forEach((one, i) => {
        const text = one && one[name] !== null && one[name] !== undefined ? show(one[name]) : "–";
        if (nowTable.cells[row][i].textContent !== text) nowTable.cells[row][i].textContent = text;
      })
    );
  }

  /* Before the verdict: the held-out figures as they come, with nothing computed from them. */
  function tellHeld() {
    const any = shown && shown.racers.some((one) => one.heldOut.length);
    const key = any ? `${shown.key}/${shown.racers.map((one) => one.heldOut.length)}/${shown.verdict !== null}` : "";
    if (parts.held.dataset.of === key) return undefined;
    parts.held.dataset.of = key;
    if (!any) return parts.held.replaceChildren();
    const head = () =>
      el("td", {}, el("h2", {}, "Held out", SpecKD.lesson("when-not", "what the gate costs and brings")));
    if (shown.verdict && Array.isArray(shown.verdict.table) && shown.verdict.table.length > 1) {
      const [first, ...rest] = shown.verdict.table;
      const cell = (
        value,
      ) => (typeof value === "number"
        ? number(value)
        : value === null || value === undefined
        ? "–"
        : SpecKD.visible(String(value)));
      /* "3.11 (−0.207)": what stands in brackets is the smaller print. */
      const print = (node, value) => {
        const [, main, more] = /^(.+?)(?: \((.+)\))?$/s.exec(cell(value)) || ["", cell(value), ""];
        node.append(main);
        if (more) node.append(el("small", { text: more }));
        return node;
      };
      const headCell = (value) => {
        const racer = shown.racers.find((one) => one.name === value);
        return racer ? racerHead(racer) : el("th", { scope: "col", class: "sk-num", text: cell(value) });
      };
      const table = el(
        "table",
        { class: "sk-figures sk-held-table" },
        el("thead", {}, append(el("tr", {}), first.map((text, i) => (i ? headCell(text) : head())))),
        append(
          el("tbody", {}),
          rest.map((line) =>
            append(
              el("tr", {}),
              line.map((value, i) => print(i ? el("td", { class: "sk-num" }) : el("th", { scope: "row" }), value)),
            )
          ),
        ),
      );
      return parts.held.replaceChildren(
        el(
          "div",
          { class: "sk-scroll", tabindex: "0", role: "region", "aria-label": "Table of held-out figures" },
          table,
        ),
      );
    }
    const before = shown.racers.map((one) => SpecKD.lastAt(one.heldOut, 0)).find(Boolean) || null;
    const after = shown.racers.map((one) => one.heldOut.filter((at) => at.step > 0).pop() || null);
    const names = HELD_OUT.filter(([name]) => [before, ...after].some((one) => one && Number.isFinite(one[name])));
    const value = (one, name, show) =>
      el("td", {
        class: "sk-num",
        text: one && one[name] !== null && one[name] !== undefined ? show(one[name]) : "–",
      });
    const table = el(
      "table",
      { class: "sk-figures sk-held-table" },
      el(
        "thead",
        {},
        append(
          el("tr", {}, head(), el("th", { scope: "col", class: "sk-num", text: "before" })),
          shown.racers.map(racerHead),
        ),
      ),
      append(
        el("tbody", {}),
        names.map(([name, text, show]) =>
          append(
            el("tr", {}, el("th", { scope: "row", text }), value(before, name, show)),
            after.map((one) => value(one, name, show)),
          )
        ),
      ),
    );
    return parts.held.replaceChildren(table);
  }
  function append(node, children) {
    node.append(...children);
    return node;
  }

  function tellOutcome() {
    const text = shown && shown.verdict ? shown.verdict.text : "";
    parts.verdict.hidden = !text;
    if (text && parts.verdict.dataset.of !== shown.key) {
      parts.verdict.dataset.of = shown.key;
      const [, first, rest] = /^(.*?[.!?])(?:\s+(\p{Lu}.*))?$/su.exec(text) || ["", text, ""];
      parts.verdict.replaceChildren(el("p", { class: "sk-outcome-first", text: SpecKD.visible(first) }));
      if (rest) parts.verdict.append(el("p", { class: "sk-small sk-muted", text: SpecKD.visible(rest) }));
    }
    const kept = shown ? shown.kept : null;
    parts.after.hidden = parts.send.hidden = !kept;
    parts.words.hidden = Boolean(kept);
    if (kept && parts.after.dataset.of !== shown.key) {
      parts.after.dataset.of = shown.key;
      const buttons = (kept.students || []).map((one) => {
        const racer = shown.racers[one.racer];
        return el(
          "button",
          { type: "button", class: "sk-button", onclick: () => inspect(one, racer) },
          racer ? SpecKD.racerMark(racer.index) : null,
          el("span", { text: racer && shown.racers.length > 1 ? `Inspect ${racer.letter}` : "Inspect this student" }),
        );
      });
      parts.send.replaceChildren(...buttons);
      const nodes = [];
      if (kept.command) {
        const code = el("code", { class: "sk-command", tabindex: "0", text: SpecKD.visible(kept.command) });
        const copy = el("button", {
          type: "button",
          class: "sk-button sk-quiet sk-small",
          text: "Copy",
          onclick: () => copyText(kept.command, "The command is copied.", "select it and copy by hand."),
        });
        nodes.push(el("div", { class: "sk-side-head" }, el("h2", { text: "Repeat it in a shell" }), copy), code);
      }
      parts.after.replaceChildren(...nodes);
    }
  }
  function tellSide() {
    tellNow();
    tellHeld();
    tellOutcome();
    fillKeep();
  }

  function inspect(one, racer) {
    if (SpecKD.students && !sent.has(one.value)) {
      sent.add(one.value);
      SpecKD.students.add({ value: one.value, label: one.label });
    }
    const asked = { student: one.value };
    if (shown.start.probe && shown.start.probe.prompt) asked.q = shown.start.probe.prompt;
    if (racer && Object.hasOwn(SpecKD.GATES, racer.gate.kind)) {
      asked.gate = racer.gate.kind;
      for (const name of ["k", "beta"]) if (racer.gate[name] !== undefined) asked[name] = String(racer.gate[name]);
    }
    if (SpecKD.address) SpecKD.address.go("inspect", asked);
  }

  /* --- the answers side by side ------------------------------------------------------------------------------------------ */

  compareButton.addEventListener("click", () => {
    answersBox.hidden = !answersBox.hidden;
    compareButton.setAttribute("aria-expanded", String(!answersBox.hidden));
    if (!answersBox.hidden) {
      answersBox.scrollIntoView({
        behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth",
        block: "nearest",
      });
    }
  });

  function tellAnswers() {
    const told = shown ? shown.answers : null;
    compareButton.disabled = !told;
    if (!told) {
      answersBox.hidden = true;
      compareButton.setAttribute("aria-expanded", "false");
      return;
    }
    if (answersBox.dataset.of === shown.key) return;
    answersBox.dataset.of = shown.key;
    const own = shown.racers.map((one) => one.gate).find((gate) => WITH_K.includes(gate.kind)) ||
      { kind: "topk", k: 5 };
    const column = own.kind === "speck" ? "speck_threshold" : "topk_threshold";
    const k = own.k || 5;
    const grid = el("div", { class: "sk-answers-grid" });
    answersBox.replaceChildren(
      el(
        "div",
        { class: "sk-side-head" },
        el("h2", {}, "Answers to ", el("bdi", { class: "sk-quote", text: SpecKD.visible(told.prompt || "") })),
      ),
      el("p", {
        class: "sk-small sk-muted",
        text: `Greedy answers, each read by the teacher and by the student of that moment; the marks are those of ${
          SpecKD.GATES[own.kind].label
        }, k = ${k}.`,
      }),
      grid,
    );
    for (const answer of told.answers) {
      const racer = Number.isInteger(answer.racer) ? shown.racers[answer.racer] : null;
      const trace = SpecKD.smallTrace(answer.trace || answer);
      const accepted = Uint8Array.from(trace.tokens, (_, t) => (trace[column] && trace[column][t] <= k ? 1 : 0));
      const name = {
        teacher: "teacher",
        before: "student before",
        after: racer ? `student after, ${racer.letter}` : "student after",
      }[answer.who] || answer.who;
      const rate = accepted.length ? accepted.reduce((sum, one) => sum + one, 0) / accepted.length : NaN;
      const card = el(
        "div",
        { class: `sk-answer sk-answer-${answer.who}` },
        el(
          "div",
          { class: "sk-answer-head" },
          racer ? SpecKD.racerMark(racer.index) : null,
          el("h3", {
            class: answer.who === "teacher"
              ? "sk-teacher-text"
              : answer.who === "before"
              ? ""
              : `sk-racer-${racer ? racer.letter.toLowerCase() : "a"}`,
            text: name,
          }),
          racer ? el("bdi", { class: "sk-muted sk-small", text: SpecKD.visible(racer.name) }) : null,
          answer.who === "teacher"
            ? null
            : el("span", { class: "sk-small sk-muted sk-answer-tar", text: `TAR ${percent(rate)}` }),
        ),
      );
      grid.append(card);
      const strip = SpecKD.createStrip(card, {
        label: `Answer of the ${name}`,
        onHover: (t) => strip.setCursor(t),
        onPin: (t) => strip.setPinned(t),
      });
      strip.setTrace(trace);
      strip.paint({ accepted });
    }
  }

  /* --- keep ---------------------------------------------------------------------------------------------------------------- */

  function fillKeep() {
    const mine = isLive() && ENDED.includes(live.state);
    const key = `${shown ? shown.key : ""}/${mine}/${shown && shown.kept ? 1 : 0}`;
    if (keep.panel.dataset.of === key) return;
    keep.panel.dataset.of = key;
    keep.clear();
    const kept = shown ? shown.kept : null;
    const files = kept && kept.files
      ? Object.entries(kept.files).filter(([, url]) =>
        typeof url === "string" && /^kept\/[\w./-]+$/.test(url) && !url.includes("..")
      )
      : [];
    for (const [name, url] of files) {
      const racer = shown.racers[Number((/(\d+)(\.zip)?$/.exec(name) || [])[1])];
      const whose = racer && shown.racers.length > 1 ? ` ${racer.letter}` : "";
      keep.add(
        `Student${whose} as ZIP`,
        "adapter, safetensors: loads with PEFT",
        () => fetchFile(url, nameFor(racer, "zip")),
      );
    }
    if (mine && shown.start) {
      for (const one of shown.racers.filter((racer) => racer.rows.length)) {
        const whose = shown.racers.length > 1 ? ` of ${one.letter}` : "";
        keep.add(`Log${whose} as CSV`, "one row a step", () => save(one.index, "csv"));
        keep.add(`Report${whose} as HTML`, "one file, without a server", () => save(one.index, "html"));
      }
      if (live.pasted) keep.add("Prompts as JSONL", "data.jsonl, which the command reads", () => save(null, "data"));
    } else keep.add("Start a run", "its student, log and report can be kept", () => startButton.focus());
    keep.add("Copy link", "every setting, in the address", copyLink);
  }
  const nameFor = (racer, kind) =>
    `speckd-${racer && shown.racers.length > 1 ? racer.letter.toLowerCase() + "-" : ""}${
      racer ? racer.gate.kind : "student"
    }.${kind}`;
  function fetchFile(url, name) {
    const link = el("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    say("done", `Saving ${name}.`, null);
  }
  async function save(racer, kind) {
    const types = { csv: "text/csv", html: "text/html", md: "text/markdown", data: "application/jsonl" };
    try {
      const answer = await server.keep({ run: live.id, racer, kind });
      if (!answer || answer.error || typeof answer.text !== "string") {
        return say(
          "failed",
          (answer && answer.error) || "The server no longer keeps this run: start it again, then keep it.",
          null,
        );
      }
      const name = kind === "data" ? "data.jsonl" : nameFor(shown.racers[racer], kind);
      SpecKD.download(new Blob([answer.text], { type: types[kind] + ";charset=utf-8" }), name);
      return say("done", `Saved ${name}.`, null);
    } catch {
      return say("failed", "The server did not answer: is it still running?", null);
    }
  }
  async function copyText(text, done, otherwise) {
    try {
      await navigator.clipboard.writeText(text);
      say("done", done, null);
    } catch {
      say("failed", `This browser did not let the page copy: ${otherwise}`, null);
    }
  }
  function copyLink() {
    remember();
    if (address) address.flush();
    return copyText(location.href, "The link is copied.", "the link is in the address bar.");
  }

  /* --- the address ----------------------------------------------------------------------------------------------------------- */

  function remember() {
    if (!address) return;
    const params = new URLSearchParams();
    for (const [key, name] of Object.entries(ADDRESS)) {
      if (form[name] !== null && form[name] !== undefined) params.set(key, String(form[name]));
    }
    params.set("gates", form.gates.join(","));
    if (form.data === "pasted" && form.text.length <= LONGEST_LINK) params.set("text", form.text);
    address.write("distill", params);
  }
  function readAddress(params) {
    let any = false;
    for (const [key, name] of Object.entries(ADDRESS)) {
      if (!params.has(key)) continue;
      any = true;
      const value = params.get(key);
      if (!NUMBERS.includes(name)) form[name] = value;
      else if (value !== "" && Number.isFinite(Number(value))) form[name] = Number(value);
    }
    if (!Object.hasOwn(SOURCES, form.data)) form.data = "shipped";
    if (!Object.hasOwn(RESPONSES, form.responses)) form.responses = "file";
    const asked = (params.get("gates") || "").split(",").filter((spec) => /^\w+(:\w+=[\w.]*)*$/.test(spec)).slice(
      0,
      2,
    );
    if (asked.length) form.gates = asked;
    if (form.data === "pasted" && params.has("text")) form.text = params.get("text");
    if (any || asked.length) showForm();
  }

  /* --- the beginning ----------------------------------------------------------------------------------------------------------- */

  function newRun(kind) {
    const run = SpecKD.createRun();
    run.key = `${kind}-${++keys}`;
    return run;
  }
  function describe() {
    const { start: facts } = shown;
    const mine = isLive();
    chip.textContent = mine ? "live" : "recorded";
    chip.classList.toggle("sk-chip-live", mine);
    pick.hidden = mine || recorded.length < 2;
    const teacher = facts.teacher === "packaged" ? "packaged teacher" : facts.teacher;
    const name = !mine && pick.hidden && shown.label ? shown.label : `${facts.student} student`;
    caption.replaceChildren(
      el("bdi", { class: "sk-caption-question", text: SpecKD.visible(name) }),
      el("span", {
        class: "sk-muted",
        text: SpecKD.visible(
          `${teacher}, ${shown.steps} steps, ${
            (SpecKD.DIVERGENCES[facts.divergence] || { label: facts.divergence }).label
          }, seed ${facts.seed}`,
        ),
      }),
    );
    caption.title = SpecKD.visible(`teacher sha256 ${facts.teacher_sha256}`);
  }

  function showRecorded(recording) {
    const run = newRun("recorded");
    run.label = recording.label || "";
    run.add(JSON.parse(recording.events));
    if (!run.start) return;
    shown = run;
    describe();
    moment = reached();
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (!calm && moment > 0) { // from the first frame on it plays: nothing flashes up that is to come
      play = { frame: 0 };
      moment = 0;
    }
    paint();
    if (play) begin();
    root.dataset.shown = String(Number(root.dataset.shown || 0) + 1);
  }

  for (const one of recorded) pick.append(el("option", { value: one.name, text: SpecKD.visible(one.label) }));
  pick.addEventListener("change", () => {
    server.recorded(pick.value).then((answer) => {
      if (!answer || answer.error) {
        return say("failed", (answer && answer.error) || "There is no such recorded run.", null);
      }
      halt();
      showRecorded(answer);
      return undefined;
    }, () => say("failed", "The server did not answer: is it still running?", null));
  });

  function boot(value) {
    readAddress(address ? address.params("distill") : new URLSearchParams());
    showForm();
    showScrubber();
    if (value.recorded && value.recorded.events) showRecorded(value.recorded);
    else {
      chip.textContent = "";
      race.show(newRun("none"));
      probe.show(newRun("none"));
      tellAnswers();
      fillKeep();
    }
    if (address) {
      address.listen("distill", (params) => {
        if (!underWay()) readAddress(params);
      });
    }
    watchModels();
  }

  function watchModels() {
    server.status().then((now) => {
      const busy = live !== null;
      if (MOVING.includes(now.state)) {
        if (!busy) say(now.state, now.text, now.share);
        setTimeout(watchModels, POLL);
      } else if (!busy) say(now.state === "failed" ? "failed" : "ready", now.text, null);
    }, () => setTimeout(watchModels, 4 * POLL));
  }

  root.distiller = { race, probe, state: () => ({ form, shown, live, moment, following, playing: play !== null }) }; // for tests
  return update;
};
