/* The Inspect page: one line of controls, the response as a strip, the lanes below it, the verdict beside it.

   The server is asked for three things only: run a question, stop it, and write a file to keep. Everything about the
   gate happens here. What is shown can always be told from the address: its #fragment holds every knob. */
const POLL = 600; // milliseconds between two looks at the loading of the models
const STOP_PATIENCE = 900; // milliseconds until Stop no longer waits for the server's last word
const FIELDS = {
  q: "prompt",
  teacher: "teacher",
  student: "student",
  source: "source",
  given: "response",
  sample: "do_sample",
  len: "max_new_tokens",
  temp: "temperature",
  seed: "seed",
};
const DEFAULTS = {
  prompt: "",
  teacher: "packaged",
  student: "healed",
  source: "teacher",
  response: "",
  do_sample: false,
  max_new_tokens: 48,
  temperature: 1,
  seed: 0,
};
let serial = 0;

SpecKD.createInspector = function (
  root,
  { trigger, server, plotly, limits, own_models: ownModels, pairs = [], place = "", examples, recorded, students },
) {
  const { el, icon, popup } = SpecKD;
  const id = `sk-inspector-${++serial}`;
  const owner = serial === 1; // one Inspect owns the address; a second on the page leaves it alone
  let form = { ...DEFAULTS };
  let prefix = []; // token ids that the response begins with, from a clicked alternative
  let shown = null; // {id, recorded, trace}: what the picture shows
  let run = null; // {id, question, pin} while one is under way
  let wish = null; // a question from the address that waits for the page to be ready
  let booted = false;

  /* --- the picture ------------------------------------------------------------------------------------------- */

  const picture = SpecKD.createPicture({ onKnobs: () => remember(), onPin: () => remember() });
  const pinHover = { onPin: (t) => picture.pin(t), onHover: (t) => picture.hover(t) };

  const controls = SpecKD.createControls({
    knobs: picture.state.knobs,
    onChange: (change) => picture.setKnobs(change),
  });
  const question = el("textarea", {
    class: "sk-ask-text",
    rows: 1,
    "aria-label": "Question",
    placeholder: "Ask a question",
    spellcheck: "false",
    dir: "auto",
    autocomplete: "off",
  });
  const examplesButton = el("button", {
    type: "button",
    class: "sk-button sk-quiet sk-icon-button",
    "aria-label": "Examples",
    title: "Examples",
  }, icon("M4 6l4 4 4-4"));
  const runButton = el("button", { type: "submit", class: "sk-button sk-primary sk-run", text: "Run" });
  const ask = el(
    "form",
    { class: "sk-ask", novalidate: true },
    el("div", { class: "sk-ask-box" }, question, examplesButton),
    runButton,
  );
  const settingsButton = el("button", {
    type: "button",
    class: "sk-button sk-quiet sk-icon-button",
    "aria-label": "Settings: pair, source, length, temperature, seed",
    title: "Settings",
    "aria-expanded": "false",
    "aria-controls": `${id}-drawer`,
  }, icon("M2 4h12M2 8h12M2 12h12"));
  const top = el(
    "header",
    { class: "sk-top" },
    el("h1", { class: "sk-hidden", text: "Inspect the gate" }),
    settingsButton,
    ask,
    controls.primary,
  );

  const status = el("span", { class: "sk-status-text" });
  const spoken = el("span", { class: "sk-hidden", role: "status" });
  const statusBox = el("div", { class: "sk-status" }, status, spoken);
  const second = el("div", { class: "sk-second" }, controls.secondary);
  controls.primary.querySelector(".sk-tar-name").append(SpecKD.lesson("gate", "the token acceptance rate"));
  const [betaField, divergenceField] = controls.secondary.querySelectorAll(".sk-field");
  betaField.after(SpecKD.lesson("gate", "the gate, k and beta"));
  divergenceField.after(SpecKD.lesson("divergences", "divergences"));

  const legend = SpecKD.legend();
  legend.append(SpecKD.lesson("propose-verify", "acceptance and 1 − TVD"));
  const chip = el("span", { class: "sk-chip sk-chip-recorded" });
  const caption = el("span", { class: "sk-caption-text" });
  const bar = el("div", { class: "sk-progress", "aria-hidden": "true" }, el("div", {}));
  const stripBox = el("div", { class: "sk-strip-box" });
  const lanesBox = el("div", { class: "sk-lanes-box" });
  const compareButton = el("button", {
    type: "button",
    class: "sk-button sk-quiet",
    "aria-expanded": "false",
    "aria-controls": `${id}-compare`,
    text: "Compare selectors",
  });
  const keepButton = el("button", { type: "button", class: "sk-button sk-quiet", text: "Keep" });
  const foot = el("div", { class: "sk-foot" }, statusBox, compareButton, keepButton);
  const main = el(
    "div",
    { class: "sk-app-main" },
    el("div", { class: "sk-caption" }, chip, caption),
    bar,
    stripBox,
    legend,
    lanesBox,
  );
  const side = el("div", { class: "sk-app-side" });
  const compareBox = el("div", { class: "sk-app-compare", id: `${id}-compare`, hidden: true });
  const drawer = makeDrawer();
  const app = el(
    "div",
    { class: "sk-app" },
    top,
    second,
    el("div", { class: "sk-app-grid" }, main, side, foot),
    compareBox,
    drawer,
  );
  root.append(app);

  const strip = SpecKD.createStrip(stripBox, pinHover);
  const verdict = SpecKD.createVerdict(side, { onAlternative: continueFrom });
  const lanes = SpecKD.createLanes(lanesBox, { plotly, ...pinHover });
  const compare = SpecKD.createCompare(compareBox, pinHover);
  picture.add(controls);
  picture.add(strip);
  picture.add({ setShown: (t, state) => verdict.show(state.trace, t, state.gated, state.knobs) });
  picture.add({ paint: lanes.paint, setCursor: lanes.setCursor, setPinned: lanes.setPinned }, { late: true });
  picture.add({ ...compare, paint: (gated, knobs) => compare.paint(gated, knobs) }, { late: true });
  new MutationObserver(() => compare.repaint()).observe(document.body, {
    attributes: true,
    attributeFilter: ["class"],
  });

  /* --- the settings' drawer: what is not the gate's ----------------------------------------------------------- */

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
    const student = make("select", "student", {});
    for (const [value, text] of Object.entries(students)) student.append(el("option", { value, text }));
    for (const pair of pairs) student.append(el("option", { value: nameOf(pair), text: pair.label }));
    if (ownModels) student.append(el("option", { value: "own", text: "models of your own" }));
    SpecKD.students.listen(({ value, label }) => {
      students = { ...students, [value]: label };
      student.append(el("option", { value, text: SpecKD.visible(label) }));
    });
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
    const sources = el("fieldset", { class: "sk-drawer-field" }, el("legend", { text: "Response from" }));
    for (
      const [value, text] of [
        ["teacher", "teacher, greedy"],
        ["teacher+", "teacher, sampled"],
        ["student", "student, greedy"],
        ["student+", "student, sampled"],
        ["given", "text of your own"],
      ]
    ) {
      sources.append(
        el(
          "label",
          { class: "sk-radio" },
          el("input", { type: "radio", name: `${id}-source`, value, "data-field": "source" }),
          " " + text,
        ),
      );
    }
    const given = el(
      "div",
      { class: "sk-given", hidden: true },
      field(
        "Text to read",
        make("textarea", "response", { rows: 5, dir: "auto", spellcheck: "false" }),
        `Up to ${limits.response.toLocaleString("en")} characters and ${limits.tokens.toLocaleString("en")} tokens.`,
      ),
    );
    const close = el("button", {
      type: "button",
      class: "sk-button sk-quiet sk-icon-button",
      "aria-label": "Close settings",
    }, icon("M4 4l8 8M12 4l-8 8"));
    const panel = el(
      "aside",
      { class: "sk-drawer", id: `${id}-drawer`, "aria-label": "Settings", hidden: true },
      el("div", { class: "sk-drawer-head" }, el("h2", { text: "Settings" }), close),
      el("p", {
        class: "sk-small sk-muted",
        text: "These count from the next Run on. The gate’s own controls act at once.",
      }),
      field(pairs.length ? "Student" : "Student of the packaged teacher", student),
      own,
      sources,
      given,
      field(
        "Length, tokens at most",
        make("input", "max_new_tokens", {
          type: "number",
          min: 1,
          max: limits.tokens,
          step: 1,
          inputmode: "numeric",
        }),
        `1 to ${limits.tokens.toLocaleString("en")}`,
      ),
      field(
        "Temperature",
        make("input", "temperature", { type: "number", min: 0.05, max: 5, step: 0.05, inputmode: "decimal" }),
        "Divides both models’ logits everywhere, greedy responses included.",
      ),
      field(
        "Seed",
        make("input", "seed", { type: "number", min: 0, step: 1, inputmode: "numeric" }),
        "Names the sampled response, the draws and their coins.",
      ),
      place ? el("p", { class: "sk-small sk-muted sk-place", text: place }) : null,
    );
    close.addEventListener("click", () => open(false));
    panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape") open(false);
    });
    panel.addEventListener("input", readDrawer);
    panel.addEventListener("change", readDrawer);
    settingsButton.addEventListener("click", () => open(panel.hidden));
    function open(yes) {
      panel.hidden = !yes;
      settingsButton.setAttribute("aria-expanded", String(yes));
      (yes ? student : settingsButton).focus();
    }
    return panel;
  }

  function nameOf({ teacher, student }) {
    return `${student} ${teacher}`;
  } // a Hub id has no space
  const input = (name) => drawer.querySelector(`#${id}-${name}`);

  function readDrawer() {
    const own = input("student").value === "own";
    const source = drawer.querySelector(`input[name="${id}-source"]:checked`).value;
    const numeric = (name) => (input(name).value === "" ? null : Number(input(name).value));
    const pair = pairs.find((one) => nameOf(one) === input("student").value);
    form.teacher = own ? input("teacher").value.trim() : pair ? pair.teacher : "packaged";
    form.student = own ? input("own").value.trim() : pair ? pair.student : input("student").value;
    form.source = source.replace("+", "");
    form.do_sample = source.endsWith("+");
    form.response = input("response").value;
    form.max_new_tokens = numeric("max_new_tokens");
    form.temperature = numeric("temperature");
    form.seed = numeric("seed");
    arrange();
    remember();
  }
  function arrange() {
    drawer.querySelector(".sk-own").hidden = input("student").value !== "own";
    drawer.querySelector(".sk-given").hidden = form.source !== "given";
  }
  function showForm() {
    question.value = form.prompt;
    const pair = pairs.find((one) => nameOf(one) === nameOf(form));
    const own = !pair && (form.teacher !== "packaged" || !Object.hasOwn(students, form.student));
    input("student").value = pair ? nameOf(pair) : own && ownModels ? "own" : form.student;
    if (own && ownModels) {
      input("teacher").value = form.teacher;
      input("own").value = form.student;
    }
    const source = form.source + (form.do_sample && form.source !== "given" ? "+" : "");
    for (const radio of drawer.querySelectorAll(`input[name="${id}-source"]`)) radio.checked = radio.value === source;
    input("response").value = form.response || "";
    for (const name of ["max_new_tokens", "temperature", "seed"]) {
      input(name).value = form[name] === null ? "" : String(form[name]);
    }
    arrange();
  }

  /* --- asking -------------------------------------------------------------------------------------------------- */

  question.addEventListener("input", () => {
    form.prompt = question.value;
    grow();
    remember();
  });
  question.addEventListener("focus", grow);
  question.addEventListener("blur", () => {
    question.style.height = "";
  });
  question.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!run) start();
    }
  });
  function grow() {
    question.style.height = "";
    if (document.activeElement === question) question.style.height = Math.min(150, question.scrollHeight + 2) + "px";
  }
  ask.addEventListener("submit", (event) => {
    event.preventDefault();
    if (run) stop();
    else start();
  });

  function start({ from = [], pin = null } = {}) {
    prefix = from;
    const name = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join(
      "",
    );
    run = { id: name, pin, pending: false, timer: 0 };
    runButton.textContent = "Stop";
    runButton.classList.add("sk-stop");
    app.classList.add("sk-running");
    say("waiting", "Asking.", null);
    trigger("run", { run: name, question: { ...form, prefix_ids: from } });
  }
  function stop() {
    const stopping = run;
    say("waiting", "Stopping.", null);
    server.stop(stopping.id).catch(() => {});
    stopping.timer = setTimeout(() => {
      if (run === stopping) finish("stopped", "Stopped.");
    }, STOP_PATIENCE);
  }
  function finish(state, text) {
    clearTimeout(run.timer);
    const pending = run.pending;
    run = null;
    runButton.textContent = "Run";
    runButton.classList.remove("sk-stop");
    app.classList.remove("sk-running");
    if (pending && shown && state !== "done") restore();
    say(state, text, null);
  }
  function restore() {
    const { trace, pinned } = picture.state;
    if (!trace) return;
    picture.setTrace(trace, { pin: pinned });
    describe();
  }

  /* A clicked alternative: the same settings as the picture on screen, the response so far, and the new token. */
  function continueFrom(t, tokenId) {
    if (run || !shown) return;
    const { trace } = shown;
    form = formOf(trace.config);
    if (form.source === "given") form = { ...form, source: "teacher", response: "" };
    const from = trace.input_ids.slice(trace.n_prompt, trace.n_prompt + t).concat([tokenId]);
    form.max_new_tokens = Math.min(limits.tokens, Math.max(form.max_new_tokens, from.length + 16));
    showForm();
    start({ from, pin: t });
  }
  const formOf = (config) => ({
    prompt: config.prompt,
    teacher: config.teacher,
    student: config.student,
    source: config.source,
    response: config.source === "given" && shown ? shown.trace.response : "",
    do_sample: Boolean(config.do_sample),
    max_new_tokens: config.max_new_tokens,
    temperature: config.temperature,
    seed: config.seed,
  });

  /* --- what the server says --------------------------------------------------------------------------------------- */

  function say(state, text, share) {
    status.textContent = text;
    statusBox.dataset.state = state;
    if (["done", "stopped", "failed", "ready"].includes(state)) spoken.textContent = text;
    const moving = ["waiting", "loading", "writing", "measuring"].includes(state);
    bar.classList.toggle("sk-moving", moving);
    bar.classList.toggle("sk-unknown", moving && (share === null || share === undefined));
    bar.firstChild.style.transform = `scaleX(${moving && share ? share : 0})`;
  }

  function update(value) {
    if (!booted) {
      booted = true;
      return boot(value);
    }
    if (!run || value.run !== run.id) return; // the last words of a run that nobody waits for
    if (value.state === "done" && value.result) {
      const pin = run.pin;
      finish("done", value.text);
      show(value.result, pin);
    } else if (value.state === "stopped" || value.state === "failed") {
      finish(value.state, value.text);
    } else {
      if (value.partial !== null && value.partial !== undefined) {
        if (!run.pending) name("writing", form.prompt, SpecKD.madeBy(form));
        run.pending = true;
        strip.setPending(value.partial);
      }
      say(value.state, value.text, value.share);
    }
  }

  /* The line above the strip: what is on it, and who made it. */
  function name(word, prompt, made, detail = "") {
    chip.textContent = word;
    chip.classList.toggle("sk-chip-live", word === "live");
    caption.replaceChildren(
      el("bdi", { class: "sk-caption-question", text: SpecKD.visible(prompt) }),
      el("span", { class: "sk-muted", text: made }),
    );
    caption.title = detail;
  }
  function describe() {
    const { config } = shown.trace;
    const detail =
      `teacher sha256 ${config.teacher_sha256}\nstudent sha256 ${config.student_sha256}\n${config.dtype} on ${config.device}; speckd ${config.speckd}, torch ${config.torch}, transformers ${config.transformers}`;
    name(shown.word, config.prompt, SpecKD.madeBy(config), detail);
  }

  function show(result, pin = null, word = result.recorded ? "recorded" : "live") {
    const trace = SpecKD.readTrace(result.trace);
    shown = { id: result.id, word, trace };
    lanes.setFigure(typeof result.figure === "string" ? JSON.parse(result.figure) : result.figure);
    describe();
    picture.setTrace(trace, { pin });
    root.dataset.shown = String(Number(root.dataset.shown || 0) + 1);
    remember();
  }

  /* --- the beginning: a recorded answer at once, or what the address asks for -------------------------------------- */

  function boot(value) {
    const asked = fromAddress(owner ? SpecKD.address.params("inspect") : new URLSearchParams());
    if (asked.knobs) Object.assign(picture.state.knobs, asked.knobs);
    controls.show(picture.state.knobs);
    if (value.result) {
      show(value.result, asked.form ? null : asked.at);
      form = formOf(shown.trace.config);
    }
    showForm();
    if (asked.form) open(asked);
    else watchModels();
    if (owner) SpecKD.address.listen("inspect", hear);
  }

  function open(asked) {
    form = { ...DEFAULTS, ...asked.form };
    showForm();
    const known = asked.start.length ? null : recorded.find((one) => same(form, one.config));
    if (known) {
      openRecorded(known.name, asked.at);
      watchModels();
    } else {
      wish = asked;
      say("loading", "Opening the question in this address.", null);
      watchModels();
    }
  }
  const same = (asked, config) =>
    ["prompt", "teacher", "student", "source", "max_new_tokens", "temperature", "seed"].every((name) =>
      asked[name] === config[name]
    ) && asked.source !== "given" && Boolean(asked.do_sample) === Boolean(config.do_sample);

  function openRecorded(name, pin = null) {
    server.recorded(name).then((result) => {
      if (result.error) return say("failed", result.error, null);
      prefix = [];
      show(result, pin);
      form = formOf(shown.trace.config);
      showForm();
      remember();
      return undefined;
    }, () => say("failed", "The server did not answer: is it still running?", null));
  }

  function watchModels() {
    server.status().then((now) => {
      const busy = run !== null;
      if (now.state === "loading") {
        if (!busy && !wish) say("loading", now.text, now.share);
        setTimeout(watchModels, POLL);
      } else if (!busy && !wish) {
        say(now.state === "done" ? "ready" : "failed", now.text, null);
      }
      if (wish && !run && now.state !== "loading") {
        const { start: from, at } = wish;
        wish = null;
        start({ from, pin: at });
      }
    }, () => setTimeout(watchModels, 4 * POLL));
  }

  /* --- the address ------------------------------------------------------------------------------------------------- */

  function remember() {
    if (owner) SpecKD.address.write("inspect", toAddress());
  }
  function toAddress() {
    const params = new URLSearchParams();
    for (const [key, name] of Object.entries(FIELDS)) {
      let value = form[name];
      if (name === "do_sample") value = value ? 1 : 0;
      if (name === "response" && form.source !== "given") continue;
      if (value === null || value === undefined) continue;
      params.set(key, String(value));
    }
    const { knobs, pinned } = picture.state;
    for (const [key, name] of [["gate", "gate"], ["k", "k"], ["beta", "beta"], ["div", "divergence"]]) {
      params.set(key, String(knobs[name]));
    }
    if (shown && form.prompt === shown.trace.config.prompt) {
      if (prefix.length) params.set("start", prefix.join("."));
      if (pinned >= 0) params.set("at", String(pinned + 1));
    }
    return params;
  }
  function fromAddress(params) {
    const asked = { form: null, knobs: {}, start: [], at: null };
    if (params.has("q")) {
      asked.form = {};
      for (const [key, name] of Object.entries(FIELDS)) {
        if (!params.has(key)) continue;
        const value = params.get(key);
        if (name === "do_sample") asked.form[name] = value === "1";
        else if (["max_new_tokens", "temperature", "seed"].includes(name)) {
          asked.form[name] = Number.isFinite(Number(value)) ? Number(value) : DEFAULTS[name];
        } else asked.form[name] = value;
      }
      if (!["teacher", "student", "given"].includes(asked.form.source || "teacher")) asked.form.source = "teacher";
    }
    const k = Number(params.get("k"));
    const beta = Number(params.get("beta"));
    if (Object.hasOwn(SpecKD.GATES, params.get("gate"))) asked.knobs.gate = params.get("gate");
    if (Number.isInteger(k) && k >= 1 && k <= SpecKD.K_MAX) asked.knobs.k = k;
    if (params.has("beta") && beta >= 0 && beta <= 1) asked.knobs.beta = beta;
    if (Object.hasOwn(SpecKD.DIVERGENCES, params.get("div"))) asked.knobs.divergence = params.get("div");
    if (/^\d+(\.\d+)*$/.test(params.get("start") || "")) asked.start = params.get("start").split(".").map(Number);
    if (/^[1-9]\d*$/.test(params.get("at") || "")) asked.at = Number(params.get("at")) - 1;
    return asked;
  }
  function hear(params) {
    if (!booted || run) return;
    const asked = fromAddress(params);
    picture.setKnobs(asked.knobs);
    controls.show(picture.state.knobs);
    if (asked.form) open(asked);
    else if (asked.at !== null) picture.pin(asked.at);
  }

  /* --- compare, examples, keep --------------------------------------------------------------------------------------- */

  compareButton.addEventListener("click", () => {
    compareBox.hidden = !compareBox.hidden;
    compareButton.setAttribute("aria-expanded", String(!compareBox.hidden));
    if (!compareBox.hidden) {
      compare.repaint();
      compareBox.scrollIntoView({
        behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth",
        block: "nearest",
      });
    }
  });

  const choose = popup(examplesButton, "sk-popup-examples");
  if (recorded.length) choose.title("Recorded, on screen at once");
  for (const one of recorded) {
    choose.add(one.config.prompt, one.label, () => {
      if (!run) openRecorded(one.name);
    });
  }
  choose.title("Questions to run");
  for (const text of examples) {
    choose.add(text, "", () => {
      form.prompt = question.value = text;
      question.focus();
      remember();
    });
  }

  const keep = popup(keepButton, "sk-popup-keep");
  keep.add("Trace as JSON", "opens here again; all 50 draws", () => save("json"));
  keep.add("Table as CSV", "one row a token", () => save("csv"));
  keep.add("Picture as PNG", "strip and lanes", () => savePng());
  keep.add("Page as HTML", "one file, alive without a server", () => save("html"));
  keep.add("Copy link", "everything that is set, in the address", () => copyLink());
  const file = el("input", {
    type: "file",
    accept: ".json,application/json",
    class: "sk-hidden",
    tabindex: "-1",
    "aria-label": "Trace file",
  });
  keep.panel.append(file);
  keep.add("Open a trace…", "a JSON file kept earlier", () => file.click());
  file.addEventListener("change", () => {
    const [chosen] = file.files;
    file.value = "";
    if (chosen && !run) openFile(chosen);
  });

  async function openFile(chosen) {
    if (chosen.size > limits.bytes) {
      return say(
        "failed",
        `${chosen.name.slice(0, 60)} has ${(chosen.size / 1e6).toFixed(1)} MB and the limit here is ${
          (limits.bytes / 1e6).toFixed(0)
        } MB.`,
        null,
      );
    }
    say("loading", "Reading the trace.", null);
    try {
      const result = await server.open_trace(await chosen.text());
      if (result.error) return say("failed", result.error, null);
      prefix = [];
      show(result, null, "opened");
      form = formOf(shown.trace.config);
      showForm();
      say("done", `Opened ${chosen.name.slice(0, 60)}.`, null);
    } catch {
      say("failed", "The file could not be read here. Nothing was changed.", null);
    }
    return undefined;
  }

  const fileName = (ending) => {
    const words = (shown.trace.config.prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) || ["trace"]).slice(0, 6).join(
      "-",
    ).slice(0, 48);
    return `speckd-${words}.${ending}`;
  };
  function download(blob, name) {
    const link = el("a", { href: URL.createObjectURL(blob), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  async function save(kind) {
    if (!shown) return;
    const types = { json: "application/json", csv: "text/csv", html: "text/html" };
    try {
      const { knobs, pinned } = picture.state;
      const answer = await server.export({ id: shown.id, kind, knobs, pin: pinned });
      if (answer.error) return say("failed", answer.error, null);
      download(new Blob([answer.text], { type: types[kind] + ";charset=utf-8" }), fileName(kind));
      say("done", `Saved ${fileName(kind)}.`, null);
    } catch {
      say("failed", "The server did not answer: is it still running?", null);
    }
    return undefined;
  }
  async function savePng() {
    if (!shown) return;
    say("loading", "Drawing the picture.", null);
    try {
      download(await SpecKD.toPng(picture, lanes, app), fileName("png"));
      say("done", `Saved ${fileName("png")}.`, null);
    } catch (error) {
      say("failed", error.message, null);
    }
  }
  async function copyLink() {
    remember();
    SpecKD.address.flush();
    try {
      await navigator.clipboard.writeText(location.href);
      say("done", "The link is copied.", null);
    } catch {
      say("failed", "This browser did not let the page copy: the link is in the address bar.", null);
    }
  }

  root.inspector = { picture, lanes, compare, state: () => ({ form, shown, run, prefix }) }; // for tests
  return update;
};
