/* The Learn page: a lesson's words on one side, on the other the very parts of Inspect and Distill, set to what the words
   speak of. Words, numbers and answer keys come from the server (app/lessons); here they become nodes, never markup. */
const STORE = "speckd-lab.learn"; // progress, in this browser alone
const STOP_PATIENCE = 900; // milliseconds until Stop no longer waits for the server's last word
const STRIDE = 170; // milliseconds a step of a playing run stays
const NARROW = "(max-width: 900px)";
const MATHML = "http://www.w3.org/1998/Math/MathML";
const MATH_TAGS = new Set([
  "math",
  "mrow",
  "mi",
  "mn",
  "mo",
  "mtext",
  "mfrac",
  "msqrt",
  "msub",
  "msup",
  "msubsup",
  "munder",
  "mover",
  "munderover",
  "mspace",
]);
const MATH_ATTRIBUTES = new Set(["display", "width", "accent", "mathvariant"]);
/* Where the controls are that a step may point at. */
const POINTS = {
  gate: ".sk-segments",
  k: ".sk-k",
  tar: ".sk-tar",
  beta: ".sk-field-beta",
  divergence: ".sk-field-divergence",
  loss: ".sk-loss",
  strip: ".sk-learn-strip",
  token: ".sk-token.sk-pinned",
  lists: ".sk-picture",
  reason: ".sk-reason",
  sum: ".sk-sum",
  facts: ".sk-facts",
  chances: ".sk-chances",
  lanes: ".sk-learn-lanes",
  selectors: ".sk-rows-box",
  agreement: ".sk-compare-right",
  race: ".sk-race-charts",
  probe: ".sk-probe-box",
  play: ".sk-learn-play",
  own: ".sk-learn-own-button",
};
let serial = 0;

SpecKD.createLearner = function (
  root,
  { trigger, server, plotly, charts, lessons, glossary, prompt_limit: promptLimit },
) {
  const { el } = SpecKD;
  const id = `sk-learner-${++serial}`;
  const owner = serial === 1; // one Learn owns the address
  const address = owner ? SpecKD.address : null;
  const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
  const materials = new Map(); // what the server sent, by name
  let own = null; // {key, trace, figure, prompt}: the visitor's sentence, once there is one
  let here = null; // {lesson, step}: what is open; lesson is the filled one
  let ticket = 0; // the newest wish; an answer to an older one is not shown
  let run = null; // a question under way
  SpecKD.glossary = glossary;

  /* --- progress: kept in this browser, and nowhere at all where that is not allowed ------------------------------- */

  const kept = recall();
  function recall() {
    try {
      const found = JSON.parse(localStorage.getItem(STORE) || "{}");
      return { seen: found.seen || {}, first: found.first || {}, last: found.last || null };
    } catch {
      return { seen: {}, first: {}, last: null };
    }
  }
  function keep() {
    try {
      localStorage.setItem(STORE, JSON.stringify(kept));
    } catch { /* a private window: nothing is kept */ }
  }
  const scoreOf = (lesson) => {
    const mine = Object.entries(kept.first).filter(([name]) => name.startsWith(lesson.id + "."));
    return { right: mine.filter(([, right]) => right).length, tried: mine.length, all: lesson.exercises };
  };

  /* --- the frame ---------------------------------------------------------------------------------------------------- */

  const listButton = el(
    "button",
    {
      type: "button",
      class: "sk-button sk-quiet sk-learn-list-button",
      "aria-expanded": "false",
      "aria-controls": `${id}-list`,
    },
    SpecKD.icon("M2 4h12M2 8h12M2 12h12"),
    el("span", { text: "Lessons" }),
  );
  const glossaryButton = el("button", {
    type: "button",
    class: "sk-button sk-quiet",
    text: "Glossary",
    onclick: () => open("glossary", 1),
  });
  const score = el("span", { class: "sk-learn-score sk-small sk-muted" });
  const top = el("header", { class: "sk-learn-top" }, listButton, glossaryButton, score);
  const list = el("nav", { class: "sk-learn-list", id: `${id}-list`, "aria-label": "Lessons", hidden: true });
  const kicker = el("h1", { class: "sk-learn-kicker" });
  const heading = el("h2", { class: "sk-learn-heading", tabindex: "-1" });
  const body = el("div", { class: "sk-learn-body" });
  const page = el(
    "div",
    { class: "sk-learn-page", tabindex: "0", role: "region", "aria-label": "Lesson text" },
    kicker,
    heading,
    body,
  );
  const previous = el("button", { type: "button", class: "sk-button sk-learn-previous", text: "Back" });
  const dots = el("ol", { class: "sk-learn-dots" });
  const next = el("button", { type: "button", class: "sk-button sk-primary sk-learn-next", text: "Next" });
  const foot = el("nav", { class: "sk-learn-foot", "aria-label": "Steps of this lesson" }, previous, dots, next);
  const reading = el("section", { class: "sk-learn-read", "aria-label": "Lesson" }, top, list, page, foot);

  const chip = el("span", { class: "sk-chip sk-chip-recorded" });
  const caption = el("span", { class: "sk-caption-text" });
  const restoreButton = el("button", {
    type: "button",
    class: "sk-button sk-quiet sk-learn-restore",
    title: "Set the picture again to what the text speaks of",
    text: "Restore",
  });
  const ownButton = el("button", {
    type: "button",
    class: "sk-button sk-quiet sk-learn-own-button",
    "aria-expanded": "false",
    "aria-controls": `${id}-own`,
    text: "Try your own sentence",
  });
  const bar = el("div", { class: "sk-progress", "aria-hidden": "true" }, el("div", {}));
  const question = el("input", {
    type: "text",
    class: "sk-text sk-learn-question",
    "aria-label": "Your question",
    placeholder: "Ask a question of your own",
    maxlength: promptLimit,
    dir: "auto",
    autocomplete: "off",
    spellcheck: "false",
  });
  const runButton = el("button", { type: "submit", class: "sk-button sk-primary sk-run", text: "Run" });
  const backButton = el("button", {
    type: "button",
    class: "sk-button sk-quiet",
    text: "Back to the recorded sentence",
    hidden: true,
  });
  const status = el("p", { class: "sk-status sk-learn-status", role: "status" });
  const ownBox = el(
    "form",
    { class: "sk-learn-own", id: `${id}-own`, novalidate: true, hidden: true },
    el("div", { class: "sk-learn-own-line" }, question, runButton),
    el("div", { class: "sk-learn-own-line" }, status, backButton),
  );
  const stage = el("div", { class: "sk-learn-stage" });
  const live = el(
    "section",
    { class: "sk-learn-live", "aria-label": "The picture of this step", tabindex: "0", role: "region" },
    el("div", { class: "sk-caption sk-learn-caption" }, chip, caption, restoreButton, ownButton),
    bar,
    ownBox,
    stage,
  );
  const spoken = el("p", { class: "sk-hidden", "aria-live": "polite" });
  const tip = el("div", { class: "sk-learn-tip", role: "tooltip", id: `${id}-tip`, hidden: true });
  const app = el("div", { class: "sk-learn" }, reading, live, spoken, tip);
  root.append(app);

  /* --- the live parts: made when a step first wants them -------------------------------------------------------------- */

  const parts = {};
  const picture = SpecKD.createPicture({
    onKnobs: () => {
      toldMoved();
    },
    onPin: () => {
      toldMoved();
    },
  });
  const pinHover = { onPin: (t) => picture.pin(t), onHover: (t) => picture.hover(t) };
  const traceBox = el("div", { class: "sk-learn-trace", hidden: true });
  const runBox = el("div", { class: "sk-learn-run", hidden: true });
  stage.append(traceBox, runBox);
  let views = [];
  let shownMaterial = null;

  function makeTraceParts() {
    if (parts.controls) return;
    const controls = (parts.controls = SpecKD.createControls({
      knobs: picture.state.knobs,
      onChange: (change) => picture.setKnobs(change),
    }));
    const [betaField, divergenceField] = controls.secondary.querySelectorAll(".sk-field");
    betaField.classList.add("sk-field-beta");
    divergenceField.classList.add("sk-field-divergence");
    parts.secondary = el("div", { class: "sk-learn-second" }, controls.secondary);
    const stripBox = el("div", { class: "sk-learn-card sk-learn-strip" });
    parts.legend = SpecKD.legend();
    parts.verdictBox = el("div", { class: "sk-learn-card sk-learn-verdict" });
    parts.lanesBox = el("div", { class: "sk-learn-card sk-learn-lanes" });
    parts.compareBox = el("div", { class: "sk-learn-card sk-learn-compare" });
    traceBox.append(
      controls.primary,
      parts.secondary,
      stripBox,
      parts.legend,
      parts.verdictBox,
      parts.lanesBox,
      parts.compareBox,
    );
    parts.strip = SpecKD.createStrip(stripBox, pinHover);
    parts.verdict = SpecKD.createVerdict(parts.verdictBox);
    picture.add(controls);
    picture.add(parts.strip);
    picture.add({
      setShown: (t, state) => {
        if (views.includes("verdict")) parts.verdict.show(state.trace, t, state.gated, state.knobs);
      },
    });
    /* What is not on screen is not drawn: it is made and painted when a step shows it. */
    picture.add({
      paint: (gated, knobs) => {
        if (views.includes("lanes") && parts.lanes) parts.lanes.paint(gated, knobs);
      },
      setCursor: (t) => parts.lanes && parts.lanes.setCursor(t),
      setPinned: (t) => parts.lanes && parts.lanes.setPinned(t),
    }, { late: true });
    picture.add({
      setTrace: (trace) => parts.compare && parts.compare.setTrace(trace),
      paint: (gated, knobs) => {
        if (views.includes("compare") && parts.compare) parts.compare.paint(gated, knobs);
      },
      setCursor: (t) => parts.compare && parts.compare.setCursor(t),
      setPinned: (t) => parts.compare && parts.compare.setPinned(t),
    }, { late: true });
    new MutationObserver(() => {
      if (parts.compare && views.includes("compare")) parts.compare.repaint();
    }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  }
  function showViews(state) {
    views = state.view;
    for (const name of ["verdict", "lanes", "compare"]) {
      if (parts[name + "Box"]) parts[name + "Box"].hidden = !views.includes(name);
    }
    if (parts.secondary) {
      parts.secondary.hidden = state.controls !== "all";
      parts.controls.primary.hidden = state.controls === "none";
      parts.legend.hidden = state.plain;
    }
    traceBox.classList.toggle("sk-learn-plain", state.plain);
    for (const part of ["lists", "reason", "sum", "facts", "chances"]) {
      traceBox.classList.toggle(`sk-learn-no-${part}`, !state.parts.includes(part));
    }
    if (views.includes("lanes") && !parts.lanes) {
      parts.lanes = SpecKD.createLanes(parts.lanesBox, { plotly, height: 290, ...pinHover });
    }
    if (views.includes("compare") && !parts.compare) parts.compare = SpecKD.createCompare(parts.compareBox, pinHover);
  }

  function showTrace(material, state) {
    shownMaterial = material;
    makeTraceParts();
    runBox.hidden = true;
    traceBox.hidden = false;
    stopPlaying();
    showViews(state);
    Object.assign(picture.state.knobs, state.knobs);
    if (picture.state.trace !== material.trace) {
      picture.setTrace(material.trace, { pin: state.pin });
      if (parts.compare) parts.compare.setTrace(material.trace);
    } else {
      picture.hover(-1);
      picture.setKnobs({});
      picture.pin(state.pin, false);
    }
    if (views.includes("verdict")) {
      parts.verdict.show(material.trace, state.pin, picture.state.gated, picture.state.knobs);
    }
    if (views.includes("lanes")) {
      parts.lanes.element.querySelector(".sk-plot").style.height =
        (state.lanes.length ? 66 + 38 * state.lanes.length : 290) + "px";
      parts.lanes.setFigure(chosenLanes(material, state.lanes));
      parts.lanes.setPinned(state.pin);
      parts.lanes.paint(picture.state.gated, picture.state.knobs);
    }
    if (views.includes("compare")) {
      parts.compare.setTrace(material.trace);
      parts.compare.paint(picture.state.gated, picture.state.knobs);
      parts.compare.setPinned(state.pin);
      parts.compare.repaint();
    }
    chip.textContent = material.own ? "your sentence" : "recorded";
    chip.classList.toggle("sk-chip-live", Boolean(material.own));
    caption.replaceChildren(
      el("bdi", { class: "sk-caption-question", text: SpecKD.visible(material.trace.config.prompt) }),
      el("span", { class: "sk-muted", text: `${material.trace.config.student} student` }),
    );
    caption.title = SpecKD.madeBy(material.trace.config);
    ownButton.hidden = false;
  }

  /* The heatmap with a few of its lanes, so that no step shows what it has not yet spoken of. */
  function chosenLanes(material, names) {
    if (!names.length) return material.figure;
    material.chosen = material.chosen || new Map();
    const key = names.join(" ");
    if (!material.chosen.has(key)) {
      const { data, layout } = material.figure;
      const rows = layout.meta.lanes.map((name, row) => ({ name, row })).filter(({ name }) => names.includes(name));
      const at = (name) => rows.findIndex((one) => one.name === name);
      material.chosen.set(key, {
        data: data.filter((lane) => lane.name === "masked" || at(lane.name) >= 0).map((
          lane,
        ) => (lane.name === "masked" ? lane : { ...lane, y: [at(lane.name)] })),
        layout: {
          ...layout,
          meta: { ...layout.meta, lanes: rows.map((one) => one.name) },
          yaxis: {
            ...layout.yaxis,
            range: [rows.length - 0.5, -0.5],
            tickvals: rows.map((_, i) => i),
            ticktext: rows.map((one) => layout.yaxis.ticktext[one.row]),
          },
          annotations: layout.annotations.filter((one) => at(one.name) >= 0).map((one) => ({
            ...one,
            y: at(one.name),
          })),
        },
      });
    }
    return material.chosen.get(key);
  }

  /* --- a recorded run: its curves and its probe, at a step ---------------------------------------------------------------- */

  let playing = 0;
  let moment = 0;
  let seen = Infinity; // points of a later step are not drawn yet: a prediction comes first
  let shownRun = null;
  function makeRunParts() {
    if (parts.race) return;
    const play = (parts.play = el("button", {
      type: "button",
      class: "sk-button sk-icon-button sk-play",
      "aria-label": "Play the run",
    }));
    parts.scrub = el("input", {
      type: "range",
      class: "sk-slider",
      min: 0,
      max: 1,
      step: 1,
      "aria-label": "Step of the run",
    });
    parts.scrubText = el("output", { class: "sk-scrubber-step sk-small" });
    parts.raceBox = el("div", { class: "sk-learn-card sk-learn-race" });
    parts.probeBox = el("div", { class: "sk-learn-card sk-learn-probe" });
    runBox.append(
      el("div", { class: "sk-learn-play" }, play, parts.scrub, parts.scrubText),
      parts.raceBox,
      parts.probeBox,
    );
    parts.race = SpecKD.createRace(parts.raceBox, {
      plotly,
      figures: charts,
      height: 200,
      onStep: (step) => toMoment(step),
    });
    parts.probe = SpecKD.createProbe(parts.probeBox, { onMoment: (step) => toMoment(step) });
    parts.scrub.addEventListener("input", () => {
      stopPlaying();
      toMoment(Number(parts.scrub.value));
    });
    play.addEventListener("click", () => (playing ? stopPlaying() : startPlaying()));
    stopPlaying();
  }
  function startPlaying() {
    if (calm()) return toMoment(shownRun.steps); // no motion: straight to the end
    if (moment >= shownRun.steps) toMoment(0);
    playing = setInterval(() => {
      toMoment(moment + 1);
      if (moment >= shownRun.steps) stopPlaying();
    }, STRIDE);
    parts.play.replaceChildren(SpecKD.icon("M5 3v10M11 3v10"));
    parts.play.setAttribute("aria-label", "Pause the run");
    return undefined;
  }
  function stopPlaying() {
    clearInterval(playing);
    playing = 0;
    if (!parts.play) return;
    parts.play.replaceChildren(SpecKD.icon("M4 3l9 5-9 5z"));
    parts.play.setAttribute("aria-label", "Play the run");
  }
  function toMoment(step) {
    moment = Math.max(0, Math.min(shownRun.steps, step));
    seen = Math.max(seen, moment);
    parts.race.setMoment(moment, seen);
    parts.probe.setMoment(moment, seen);
    showMoment();
    toldMoved();
  }
  function showMoment() {
    parts.scrub.max = String(shownRun.steps);
    parts.scrub.value = String(moment);
    parts.scrub.style.setProperty("--at", `${(100 * moment) / Math.max(1, shownRun.steps)}%`);
    parts.scrub.setAttribute("aria-valuetext", `step ${moment} of ${shownRun.steps}`);
    parts.scrubText.textContent = `step ${moment} of ${shownRun.steps}`;
  }
  function showRun(material, state) {
    makeRunParts();
    traceBox.hidden = true;
    runBox.hidden = false;
    stopPlaying();
    views = state.view;
    parts.raceBox.hidden = !views.includes("race");
    parts.probeBox.hidden = !views.includes("probe");
    for (const section of parts.raceBox.querySelectorAll(".sk-race-chart")) {
      section.hidden = state.charts.length > 0 && !state.charts.includes(section.dataset.quantity);
    }
    parts.raceBox.dataset.charts = String(state.charts.length || 3);
    for (const plot of parts.raceBox.querySelectorAll(".sk-plot")) {
      plot.style.height = (views.includes("probe") ? 180 : 300) + "px";
    }
    shownRun = material;
    moment = state.step;
    seen = moment > 0 ? Infinity : 0;
    parts.race.show(material, { step: moment, until: seen });
    parts.probe.show(material, { step: moment, upTo: seen, racer: state.racer });
    showMoment();
    chip.textContent = "recorded run";
    chip.classList.remove("sk-chip-live");
    const start = material.start;
    caption.replaceChildren(
      el("bdi", { class: "sk-caption-question", text: `${start.student} student` }),
      el("span", { class: "sk-muted", text: `${material.steps} steps, seed ${start.seed}` }),
    );
    caption.title = "";
    ownButton.hidden = true;
    openOwn(false, false);
  }

  /* --- what the server keeps ---------------------------------------------------------------------------------------------- */

  function remember(name, ask, make) {
    if (!materials.has(name)) {
      materials.set(
        name,
        ask().then((answer) => {
          if (answer.error) throw new Error(answer.error);
          return make(answer);
        }).catch((error) => {
          materials.delete(name);
          throw error;
        }),
      );
    }
    return materials.get(name);
  }
  const lessonOf = (name) => {
    const key = own ? own.key : null;
    return remember(
      `lesson/${name}/${key}`,
      () => server.lesson({ id: name, own: key }),
      (answer) => JSON.parse(answer.lesson),
    );
  };
  const traceOf = (
    name,
  ) => (own && name === "healed" ? Promise.resolve(own) : remember(
    `trace/${name}`,
    () => server.material({ trace: name }),
    (answer) => ({ trace: SpecKD.readTrace(answer.trace), figure: JSON.parse(answer.figure) }),
  ));
  const runOf = (name) =>
    remember(`run/${name}`, () => server.material({ run: name }), (answer) => {
      const made = SpecKD.createRun().add(JSON.parse(answer.events));
      made.key = name;
      return made;
    });

  /* --- opening a step -------------------------------------------------------------------------------------------------------- */

  async function open(name, step = 1, { focus = true, tell = true } = {}) {
    const mine = ++ticket;
    showList(false, false);
    hideTip();
    if (name === "glossary") return showGlossary(focus, tell, step);
    const known = lessons.find((one) => one.id === name) || lessons[0];
    let lesson;
    try {
      lesson = await lessonOf(known.id);
    } catch (error) {
      if (mine === ticket) complain(error);
      return undefined;
    }
    if (mine !== ticket) return undefined;
    const index = Math.max(0, Math.min(lesson.steps.length - 1, step - 1));
    here = { lesson, index };
    app.classList.remove("sk-learn-in-glossary");
    write();
    mark();
    if (tell && address) address.write("learn", { lesson: lesson.id, step: String(index + 1) });
    page.scrollTop = 0;
    if (focus) {
      heading.focus({ preventScroll: !matchMedia(NARROW).matches });
      if (matchMedia(NARROW).matches) root.scrollIntoView({ block: "start" });
    }
    try {
      await setState(lesson.steps[index].state, mine);
    } catch (error) {
      if (mine === ticket) complain(error);
    }
    if (mine === ticket) root.dataset.step = `${lesson.id}/${index + 1}`; // for tests: the step stands, picture and all
    return undefined;
  }
  function complain(error) {
    say(
      "failed",
      error && error.message && !/fetch|network/i.test(error.message)
        ? error.message
        : "The server did not answer: is it still running?",
      null,
    );
    openOwn(true, false);
  }
  async function setState(state, mine = ticket) {
    if (state.trace) {
      const material = await traceOf(state.trace);
      if (mine !== ticket) return;
      showTrace(material, state);
    } else if (state.run) {
      const material = await runOf(state.run);
      if (mine !== ticket) return;
      showRun(material, state);
    } else {
      traceBox.hidden = runBox.hidden = true;
      chip.textContent = "";
      caption.replaceChildren();
      ownButton.hidden = true;
    }
    toldMoved();
    point(state.point);
  }
  const stateNow = () => (here ? here.lesson.steps[here.index].state : null);
  function restore() {
    setState(stateNow());
    spoken.textContent = "";
    spoken.textContent = "The picture is as the text speaks of it.";
  }
  /* Restore is offered once something on screen is no longer what the text speaks of. */
  function toldMoved() {
    const state = stateNow();
    let moved = false;
    if (state && state.trace && picture.state.trace) {
      moved = picture.state.pinned !== state.pin ||
        Object.entries(state.knobs).some(([name, value]) => picture.state.knobs[name] !== value);
    }
    if (state && state.run) moved = moment !== state.step;
    restoreButton.disabled = !moved;
    app.classList.toggle("sk-learn-moved", moved);
  }
  restoreButton.addEventListener("click", restore);

  /* --- pointing ---------------------------------------------------------------------------------------------------------------- */

  function find(name) {
    const node = live.querySelector(POINTS[name] || ":scope > .nothing");
    return node && node.getClientRects().length ? node : null;
  }
  function point(names, { scroll = !matchMedia(NARROW).matches, only = false } = {}) {
    for (const node of live.querySelectorAll(".sk-pointed")) node.classList.remove("sk-pointed", "sk-pointed-now");
    const nodes = names.map(find).filter(Boolean);
    for (const node of nodes) {
      node.classList.add("sk-pointed");
      if (only) node.classList.add("sk-pointed-now");
    }
    if (scroll && nodes.length) {
      nodes[0].scrollIntoView({
        block: matchMedia(NARROW).matches ? "center" : "nearest",
        behavior: calm() ? "auto" : "smooth",
      });
    }
  }

  /* --- words into nodes ---------------------------------------------------------------------------------------------------------- */

  let sources = []; // of the step that is being written
  let readOn = () => {}; // shows what follows the step's question
  function build(node) {
    if (typeof node === "string") return document.createTextNode(node.replace(/\b(Top|Spec)-k\b/g, "$1\u2011k")); // never broken at a line's end
    const children = () => (node.children || []).map(build);
    switch (node.tag) {
      case "p":
      case "ul":
      case "ol":
      case "li":
      case "b":
      case "i":
      case "h3":
        return el(node.tag, {}, ...children());
      case "quote":
        return el("blockquote", {}, ...children());
      case "code":
        return el("code", {}, ...children());
      case "field":
        return el("span", { class: "sk-learn-number", text: node.text });
      case "number":
        return el("span", { class: "sk-learn-number", text: SpecKD.formatNode(node) });
      case "claim":
        return el("span", { class: "sk-learn-claim" }, ...children());
      case "token": { // its place in the text tells it from the same word elsewhere
        const quote = el("bdi", { class: "sk-quote", text: SpecKD.shown(node.text) });
        return node.place ? el("span", { class: "sk-learn-named" }, quote, el("sub", { text: node.place })) : quote;
      }
      case "math":
        return math(node.math);
      case "formula":
        return el(
          "div",
          { class: "sk-learn-formula", tabindex: "0", role: "group", "aria-label": "Formula" },
          math(node.math),
        );
      case "table":
        return tableOf(node);
      case "quoted":
        return el(
          "figure",
          { class: "sk-learn-quoted" },
          ...children(),
          el("figcaption", { class: "sk-small sk-muted", text: `Source: ${node.source}` }),
        );
      case "cite":
        return cite(node);
      case "term":
        return termOf(node, children());
      case "point":
        return el("button", {
          type: "button",
          class: "sk-learn-point",
          title: "Show it in the picture",
          onclick: () => point([node.point], { scroll: true, only: true }),
        }, ...children());
      case "link": {
        const link = el(
          "a",
          { class: "sk-link", href: `#tab=learn&lesson=${node.lesson}&step=${node.step}` },
          ...children(),
        );
        link.addEventListener("click", (event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return;
          event.preventDefault();
          open(node.lesson, node.step);
        });
        return link;
      }
      case "exercise":
        return exerciseOf(node);
      default:
        return document.createTextNode("");
    }
  }
  function math([tag, attributes, children]) {
    const node = document.createElementNS(MATHML, MATH_TAGS.has(tag) ? tag : "mrow");
    for (const [name, value] of Object.entries(attributes)) {
      if (MATH_ATTRIBUTES.has(name)) node.setAttribute(name, value);
    }
    for (const child of children) {
      node.append(typeof child === "string" ? child : Array.isArray(child) ? math(child) : build(child).textContent);
    }
    return node;
  }
  function tableOf(node) {
    const head = el("tr", {});
    node.head.forEach((cell, i) =>
      head.append(el("th", { scope: "col", class: i ? "sk-num" : null }, ...cell.map(build)))
    );
    const rows = el("tbody", {});
    for (const row of node.rows) {
      const line = el("tr", {});
      row.forEach((cell, i) =>
        line.append(
          i ? el("td", { class: "sk-num" }, ...cell.map(build)) : el("th", { scope: "row" }, ...cell.map(build)),
        )
      );
      rows.append(line);
    }
    return el(
      "div",
      { class: "sk-learn-table", tabindex: "0", role: "group", "aria-label": "Table" },
      el("table", {}, el("thead", {}, head), rows),
    );
  }
  function cite(node) {
    let at = sources.indexOf(node.source);
    if (at < 0) at = sources.push(node.source) - 1;
    return el(
      "span",
      { class: "sk-learn-cite", title: node.source },
      el("span", { text: node.text }),
      el("sup", { "aria-label": `source ${"abcdefgh"[at]}`, role: "note", text: "abcdefgh"[at] }),
    );
  }

  /* --- a term says what it means ------------------------------------------------------------------------------------------------- */

  let tipOf = null;
  function termOf(node, children) {
    const name = node.term;
    const button = el(
      "button",
      { type: "button", class: "sk-learn-term", "aria-describedby": `${id}-tip` },
      ...children,
    );
    button.addEventListener("pointerenter", (event) => {
      if (event.pointerType !== "touch") showTip(button, name);
    });
    button.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") {
        setTimeout(() => {
          if (!tip.matches(":hover") && document.activeElement !== button) hideTip();
        }, 120);
      }
    });
    button.addEventListener("focus", () => showTip(button, name));
    button.addEventListener("blur", () => hideTip());
    button.addEventListener("click", () => showTip(button, name));
    return button;
  }
  function showTip(button, name) {
    const term = glossary[name];
    if (!term) return;
    tipOf = button;
    tip.replaceChildren(el("b", { text: name }), " ", ...term.says.map(buildPlain));
    tip.hidden = false;
    const frame = app.getBoundingClientRect();
    const at = button.getBoundingClientRect();
    const width = Math.min(340, frame.width - 24);
    tip.style.width = width + "px";
    const left = Math.max(12, Math.min(at.left - frame.left, frame.width - width - 12));
    const below = at.bottom + tip.offsetHeight + 8 < innerHeight;
    tip.style.left = left + "px";
    tip.style.top = (below ? at.bottom - frame.top + 6 : at.top - frame.top - tip.offsetHeight - 6) + "px";
  }
  const buildPlain = (
    node,
  ) => (typeof node !== "string" && node.tag === "term"
    ? el("span", {}, ...node.children.map(buildPlain))
    : build(node));
  function hideTip() {
    tip.hidden = true;
    tipOf = null;
  }
  tip.addEventListener("pointerleave", hideTip);
  page.addEventListener("scroll", hideTip, { passive: true });
  app.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && tipOf) {
      event.stopPropagation();
      hideTip();
    }
  }, true);

  /* --- exercises: a prediction, then the answer ------------------------------------------------------------------------------------ */

  function exerciseOf(task) {
    const result = el("p", { class: "sk-learn-result", role: "status" });
    const check = el("button", { type: "button", class: "sk-button sk-learn-check", text: "Check" });
    const name = `${id}-${task.id}`;
    const box = el(
      "fieldset",
      { class: "sk-learn-exercise", "data-exercise": task.id, "data-form": task.form },
      el("legend", {}, el("span", { class: "sk-learn-predict", text: "Predict " }), ...task.ask.map(build)),
    );
    const tell = (right, reason, given) => {
      box.dataset.answered = right ? "right" : "wrong";
      result.replaceChildren(
        el("b", { text: right ? "✓ Right. " : `✕ ${given} ` }),
        ...task.why.map(build),
        " ",
        ...reason.map(build),
      );
      if (!own && !(task.id in kept.first)) {
        kept.first[task.id] = right;
        keep();
        showScore();
      }
      reveal(task.reveal || {});
      readOn();
    };
    const wants = (text) => {
      result.replaceChildren(el("span", { text }));
    };

    if (task.form === "choice") {
      const options = el("div", { class: "sk-learn-options" });
      task.options.forEach((option, i) => {
        const input = el("input", { type: "radio", name, value: i });
        options.append(el("label", { class: "sk-radio" }, input, el("span", {}, ...option.map(build))));
      });
      check.addEventListener("click", () => {
        const chosen = options.querySelector("input:checked");
        if (!chosen) return wants("Choose one first.");
        options.querySelectorAll("label").forEach((label, i) =>
          label.classList.toggle("sk-learn-key", task.right.includes(i))
        );
        return tell(task.right.includes(Number(chosen.value)), task.reason, "Not so.");
      });
      box.append(options, el("div", { class: "sk-learn-verify" }, check, result));
    } else {
      const order = task.items.map((_, i) => i);
      const rows = el("ol", { class: "sk-learn-order" });
      const draw = (focus = null) => {
        rows.replaceChildren(...order.map((item, at) => {
          const text = task.items[item].map((one) => (typeof one === "string" ? one : one.text)).join("");
          const step = (way, word) =>
            el("button", {
              type: "button",
              class: "sk-button sk-quiet sk-learn-move",
              "data-way": way,
              disabled: at + way < 0 || at + way >= order.length,
              "aria-label": `Move ${text} ${word}`,
              onclick: () => {
                [order[at], order[at + way]] = [order[at + way], order[at]];
                delete box.dataset.answered;
                draw([at + way, way]);
              },
            }, SpecKD.icon(way < 0 ? "M4 10l4-4 4 4" : "M4 6l4 4 4-4"));
          return el(
            "li",
            {},
            el("span", { class: "sk-learn-item" }, ...task.items[item].map(build)),
            step(-1, "up"),
            step(1, "down"),
          );
        }));
        if (focus) {
          const row = rows.children[focus[0]];
          const same = row.querySelector(`[data-way="${focus[1]}"]`);
          (same.disabled ? row.querySelector("button:not([disabled])") : same).focus();
        }
      };
      draw();
      check.addEventListener("click", () => {
        const right = order.every((item, at) => task.values[item] === task.values[task.answer[at]]); // ties may stand either way
        tell(right, task.reason, "Not in this order.");
      });
      box.append(rows, el("div", { class: "sk-learn-verify" }, check, result));
    }
    return box;
  }
  /* What Check reveals is shown in the picture too: the step's state with what the answer changes. */
  function reveal(change) {
    const state = stateNow();
    if (state.trace && shownMaterial) {
      const knobs = { ...picture.state.knobs, ...change.knobs };
      showTrace(shownMaterial, { ...state, ...change, knobs, pin: change.pin ?? picture.state.pinned });
    } else if (state.run && shownRun) showRun(shownRun, { ...state, ...change, step: change.step ?? moment });
    toldMoved();
  }

  /* --- writing a step -------------------------------------------------------------------------------------------------------------- */

  function write() {
    const { lesson, index } = here;
    const step = lesson.steps[index];
    const number = lessons.findIndex((one) => one.id === lesson.id) + 1;
    kicker.replaceChildren(
      el("span", { class: "sk-muted", text: `Lesson ${number} of ${lessons.length} ` }),
      lesson.title,
    );
    heading.replaceChildren(...step.title.map(build));
    sources = [];
    const nodes = step.body.map(build);
    /* What follows a question gives its answer away: it waits for the prediction, or for one who does not want to make it. */
    const at = step.body.findIndex((node) => node.tag === "exercise");
    if (at >= 0 && at < nodes.length - 1 && !(step.body[at].id in kept.first)) {
      const after = el("div", { class: "sk-learn-after", hidden: true }, ...nodes.splice(at + 1));
      const skip = el("button", {
        type: "button",
        class: "sk-button sk-quiet sk-learn-skip",
        text: "Read on without predicting",
        onclick: () => {
          readOn();
          after.querySelector("p, ul, div").scrollIntoView({ block: "nearest" });
        },
      });
      readOn = () => {
        after.hidden = false;
        skip.remove();
      };
      nodes.push(skip, after);
    } else {
      readOn = () => {};
    }
    if (own && step.state.trace === "healed") {
      nodes.unshift(
        el("p", {
          class: "sk-learn-note sk-small",
          text:
            "The numbers and exercises below are those of your sentence. The words were written beside the recorded one.",
        }),
      );
    }
    if (sources.length) {
      nodes.push(
        el(
          "ol",
          { class: "sk-learn-sources sk-small sk-muted", "aria-label": "Sources" },
          ...sources.map((text) => el("li", { text })),
        ),
      );
    }
    body.replaceChildren(...nodes);
    dots.replaceChildren(...lesson.steps.map((one, i) => {
      const title = one.title.map((part) => (typeof part === "string" ? part : part.text || "")).join("");
      return el(
        "li",
        { hidden: Boolean(one.left_out) },
        el("button", {
          type: "button",
          class: "sk-learn-dot",
          "aria-label": `Step ${i + 1}: ${title}`,
          title,
          "aria-current": i === index ? "step" : null,
          onclick: () => open(lesson.id, i + 1),
        }),
      );
    }));
    previous.disabled = number === 1 && index === 0;
    const last = index === lesson.steps.length - 1;
    const following = lessons[number];
    next.textContent = last ? (following ? "Next lesson" : "All lessons") : "Next";
    next.title = last && following ? following.title : "";
    page.setAttribute("aria-label", `Lesson ${number}, step ${index + 1} of ${lesson.steps.length}`);
    kept.last = { lesson: lesson.id, step: index + 1 };
    const seen = new Set(kept.seen[lesson.id] || []);
    seen.add(index + 1);
    kept.seen[lesson.id] = [...seen];
    keep();
  }
  function forward(way) {
    if (!here) return undefined;
    const { lesson, index } = here;
    let at = index + way;
    while (lesson.steps[at]?.left_out) at += way; // it speaks of a token that one's own sentence has not
    if (at >= 0 && at < lesson.steps.length) return open(lesson.id, at + 1);
    const other = lessons[lessons.findIndex((one) => one.id === lesson.id) + way];
    if (other) return open(other.id, way > 0 ? 1 : other.steps);
    if (way > 0) showList(true);
    return undefined;
  }
  previous.addEventListener("click", () => forward(-1));
  next.addEventListener("click", () => forward(1));

  /* Keys turn pages where they mean nothing else: not in a field, a slider, a choice or a strip. */
  reading.addEventListener("keydown", (event) => {
    if (
      event.altKey || event.ctrlKey || event.metaKey ||
      event.target.closest("input, select, textarea, [role=listbox], canvas")
    ) return;
    const way = { ArrowRight: 1, n: 1, N: 1, ArrowLeft: -1, p: -1, P: -1, PageDown: 1, PageUp: -1 }[event.key];
    if (!way || app.classList.contains("sk-learn-in-glossary")) return;
    if (event.key.startsWith("Page")) { // first the page itself is read to its end
      const rest = way > 0 ? page.scrollHeight - page.clientHeight - page.scrollTop : page.scrollTop;
      if (rest > 4 && !matchMedia(NARROW).matches) return;
    }
    event.preventDefault();
    forward(way);
  });

  /* --- the list of lessons, the score, the glossary --------------------------------------------------------------------------------- */

  function mark() {
    showScore();
    list.replaceChildren(
      el("p", { class: "sk-small sk-muted sk-learn-list-note", text: "Progress and score stay in this browser." }),
      el(
        "ol",
        {},
        ...lessons.map((lesson, i) => {
          const { right, tried, all } = scoreOf(lesson);
          const seen = (kept.seen[lesson.id] || []).length;
          const detail = `${lesson.minutes} min, ${lesson.steps} steps` +
            (seen ? `, ${Math.min(seen, lesson.steps)} read` : "") +
            (tried ? `, ${right} of ${all} predictions right at once` : "");
          return el(
            "li",
            {},
            el(
              "button",
              {
                type: "button",
                class: "sk-learn-lesson",
                "aria-current": here && here.lesson.id === lesson.id ? "true" : null,
                onclick: () => open(lesson.id, 1),
              },
              el("span", { class: "sk-learn-lesson-number", "aria-hidden": "true", text: String(i + 1) }),
              el("span", { class: "sk-learn-lesson-title", text: lesson.title }),
              el("small", { text: detail }),
            ),
          );
        }),
      ),
    );
  }
  function showScore() {
    const answers = Object.values(kept.first);
    const right = answers.filter(Boolean).length;
    score.textContent = answers.length ? `${right} of ${answers.length} predicted right` : "";
  }
  function showList(yes, focus = true) {
    if (yes) mark();
    list.hidden = !yes;
    listButton.setAttribute("aria-expanded", String(yes));
    if (focus) {
      (yes ? list.querySelector("button[aria-current]") || list.querySelector("button") : listButton).focus();
    }
  }
  listButton.addEventListener("click", () => showList(list.hidden));
  list.addEventListener("keydown", (event) => {
    const items = [...list.querySelectorAll("button")];
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const at = items.indexOf(document.activeElement);
    if (way && at >= 0) {
      event.preventDefault();
      event.stopPropagation();
      items[(at + way + items.length) % items.length].focus();
    }
    if (event.key === "Escape") {
      event.stopPropagation();
      showList(false);
    }
  });
  document.addEventListener("pointerdown", (event) => {
    if (!list.hidden && !list.contains(event.target) && !listButton.contains(event.target)) showList(false, false);
  });

  function showGlossary(focus, tell) {
    here = null;
    app.classList.add("sk-learn-in-glossary");
    kicker.replaceChildren(el("span", { class: "sk-muted", text: "All lessons" }));
    heading.replaceChildren("Glossary");
    const words = el("dl", { class: "sk-learn-glossary" });
    for (const [name, term] of Object.entries(glossary)) {
      const lesson = lessons.find((one) => one.id === term.lesson);
      words.append(
        el("dt", { text: name }),
        el(
          "dd",
          {},
          ...term.says.map(buildPlain),
          lesson
            ? el(
              "span",
              {},
              " ",
              build({ tag: "link", lesson: term.lesson, step: term.step, children: [lesson.title] }),
            )
            : null,
        ),
      );
    }
    body.replaceChildren(words);
    dots.replaceChildren();
    page.setAttribute("aria-label", "Glossary");
    page.scrollTop = 0;
    mark();
    if (tell && address) address.write("learn", { lesson: "glossary" });
    if (focus) heading.focus();
    root.dataset.step = "glossary";
  }

  /* --- a sentence of one's own --------------------------------------------------------------------------------------------------------- */

  function openOwn(yes, focus = true) {
    ownBox.hidden = !yes;
    ownButton.setAttribute("aria-expanded", String(yes));
    if (yes && focus) question.focus();
  }
  ownButton.addEventListener("click", () => {
    openOwn(ownBox.hidden);
    if (ownBox.hidden || run) return;
    server.status().then((now) => {
      if (!run) say(now.state === "failed" ? "failed" : "ready", now.text, null);
    }, () => {});
  });
  ownBox.addEventListener("submit", (event) => {
    event.preventDefault();
    if (run) return stop();
    const name = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join(
      "",
    );
    run = { id: name, prompt: question.value, timer: 0 };
    runButton.textContent = "Stop";
    runButton.classList.add("sk-stop");
    say("waiting", "Asking.", null);
    trigger("run", { run: name, prompt: question.value });
    return undefined;
  });
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
    run = null;
    runButton.textContent = "Run";
    runButton.classList.remove("sk-stop");
    say(state, text, null);
  }
  function say(state, text, share) {
    status.textContent = text;
    status.dataset.state = state;
    const moving = ["waiting", "loading", "writing", "measuring"].includes(state);
    bar.classList.toggle("sk-moving", moving);
    bar.classList.toggle("sk-unknown", moving && (share === null || share === undefined));
    bar.firstChild.style.transform = `scaleX(${moving && share ? share : 0})`;
  }
  backButton.addEventListener("click", () => {
    own = null;
    backButton.hidden = true;
    say("ready", "The recorded sentence is back.", null);
    reopen();
  });
  const reopen = () => here && open(here.lesson.id, here.index + 1, { focus: false, tell: false });

  function update(value) {
    if (!value.run) return undefined;
    if (!run || value.run !== run.id) return undefined; // the last words of a run that nobody waits for
    if (value.state === "done" && value.result) {
      const result = value.result;
      own = { key: result.id, own: true, trace: SpecKD.readTrace(result.trace), figure: JSON.parse(result.figure) };
      backButton.hidden = false;
      finish("done", "The lesson now speaks of your sentence.");
      return reopen();
    }
    if (value.state === "stopped" || value.state === "failed") return finish(value.state, value.text);
    return say(value.state, value.text, value.share);
  }

  /* --- the beginning ---------------------------------------------------------------------------------------------------------------------- */

  function wished(params) {
    const lesson = params.get("lesson");
    if (lesson) return [lesson, Number(params.get("step")) || 1];
    if (kept.last && lessons.some((one) => one.id === kept.last.lesson)) return [kept.last.lesson, kept.last.step];
    return [lessons[0].id, 1];
  }
  if (address) address.listen("learn", (params) => open(...wished(params), { tell: !params.has("lesson") }));
  mark();
  open(...wished(address ? address.params("learn") : new URLSearchParams()), { focus: false });

  root.learner = { picture, open, state: () => ({ here, own, moment, parts }) }; // for tests
  return update;
};
