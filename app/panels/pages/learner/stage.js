/* The picture beside a lesson's words: the very parts of Inspect and Distill, set to what a step speaks of. Parts are
   made when a step first wants them, and what is not on screen is not drawn. */

const { el } = SpecKD;
const STRIDE = 170; // milliseconds a step of a playing run stays
const LANES = 290; // pixels that all the lanes take
const large = matchMedia("(min-width: 1600px)"); // as in learn.css: there is room
const DECODED = { clock: "clock", round: "stage", rounds: "rows", token: "card", figures: "facts" }; // views -> places
const SECTIONS = ["lists", "reason", "sum", "facts", "chances"]; // of the verdict
const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
const card = (kind) => el("div", { class: `sk-learn-card sk-learn-${kind}` });

/* The heatmap with a few of its lanes, so that no step shows what it has not yet spoken of. */
function chosenLanes(material, names) {
  if (!names.length) return material.figure;
  material.chosen = material.chosen || new Map();
  const key = names.join(" ");
  if (!material.chosen.has(key)) material.chosen.set(key, withLanes(material.figure, names));
  return material.chosen.get(key);
}
function withLanes({ data, layout }, names) {
  const rows = layout.meta.lanes.map((name, row) => ({ name, row })).filter(({ name }) => names.includes(name));
  const at = (name) => rows.findIndex((one) => one.name === name);
  const here = (one) => one.name === "masked" || at(one.name) >= 0;
  return {
    data: data.filter(here).map((lane) => (lane.name === "masked" ? lane : { ...lane, y: [at(lane.name)] })),
    layout: {
      ...layout,
      meta: { ...layout.meta, lanes: rows.map((one) => one.name) },
      yaxis: {
        ...layout.yaxis,
        range: [rows.length - 0.5, -0.5],
        tickvals: rows.map((_, i) => i),
        ticktext: rows.map((one) => layout.yaxis.ticktext[one.row]),
      },
      annotations: layout.annotations.filter((one) => at(one.name) >= 0).map((one) => ({ ...one, y: at(one.name) })),
    },
  };
}

class LessonStage {
  /* `caption(chip, live, question, made, detail)` names what is shown; `onMoved` hears that something on screen is no
     longer as a step set it. */
  constructor({ plotly, charts, caption, onMoved }) {
    this.plotly = plotly;
    this.charts = charts;
    this.caption = caption;
    this.onMoved = onMoved;
    this.views = [];
    this.material = null; // the trace that is shown
    this.run = null;
    this.moment = 0;
    this.seen = Infinity; // points of a later step are not drawn yet: a prediction comes first
    this.picture = SpecKD.createPicture({ onKnobs: onMoved, onPin: onMoved });
    this.traceBox = el("div", { class: "sk-learn-trace", hidden: true });
    this.runBox = el("div", { class: "sk-learn-run", hidden: true });
    this.studyBox = el("div", { class: "sk-learn-run", hidden: true });
    this.decodingBox = el("div", { class: "sk-learn-decoding", hidden: true });
    this.element = el("div", { class: "sk-learn-stage" }, this.traceBox, this.runBox, this.studyBox, this.decodingBox);
    this.decoded = null; // the parts of a decoding, once a step has wanted them
    /** @type {Controls | null} */
    this.controls = null;
    /** @type {Compare | null} */
    this.compare = null;
    this.lanes = null;
    this.race = null;
    this.study = null; // the map against the step's control
    this.cells = null; // of it, in the step's view
    this.figure = ""; // that the map shows
  }
  get pinHover() {
    return { onPin: (t) => this.picture.pin(t), onHover: (t) => this.picture.hover(t) };
  }
  clear() {
    for (const box of [this.traceBox, this.runBox, this.studyBox, this.decodingBox]) box.hidden = true;
  }

  /* --- one text ------------------------------------------------------------------------------------------------ */

  makeTraceParts() {
    if (this.controls) return;
    const { picture } = this;
    this.controls = SpecKD.createControls({
      knobs: picture.state.knobs,
      onChange: (change) => picture.setKnobs(change),
    });
    const { primary, secondary } = this.controls;
    const [betaField, divergenceField] = secondary.querySelectorAll(".sk-field");
    betaField.classList.add("sk-field-beta");
    divergenceField.classList.add("sk-field-divergence");
    this.secondary = el("div", { class: "sk-learn-second" }, secondary);
    const stripBox = card("strip");
    this.legend = SpecKD.legend();
    this.boxes = { verdict: card("verdict"), lanes: card("lanes"), compare: card("compare") };
    this.traceBox.append(primary, this.secondary, stripBox, this.legend, ...Object.values(this.boxes));
    this.strip = SpecKD.createStrip(stripBox, this.pinHover);
    this.words = SpecKD.interlinearSwitch(this.strip);
    this.legend.append(this.words);
    this.verdict = SpecKD.createVerdict(this.boxes.verdict);
    picture.add(this.controls);
    picture.add(this.strip);
    picture.add({ setShown: (t, state) => this.showVerdict(t, state) });
    this.addLateParts();
  }
  addLateParts() {
    const { picture } = this;
    picture.add({
      paint: (gated, knobs) => {
        if (this.shows("lanes")) this.lanes.paint(gated, knobs);
      },
      setCursor: (t) => this.lanes && this.lanes.setCursor(t),
      setPinned: (t) => this.lanes && this.lanes.setPinned(t),
    }, { late: true });
    picture.add({
      setTrace: (trace) => this.compare && this.compare.setTrace(trace),
      paint: (gated, knobs) => {
        if (this.shows("compare")) this.compare.paint(gated, knobs);
      },
      setCursor: (t) => this.compare && this.compare.setCursor(t),
      setPinned: (t) => this.compare && this.compare.setPinned(t),
    }, { late: true });
    const theme = new MutationObserver(() => {
      if (this.shows("compare")) this.compare.repaint();
    });
    theme.observe(document.body, { attributes: true, attributeFilter: ["class"] });
  }
  shows(view) {
    return this.views.includes(view) && Boolean(this[view]);
  }
  showVerdict(t, { trace, gated, knobs }) {
    if (this.shows("verdict")) this.verdict.show(trace, t, gated, knobs);
  }

  showViews(state) {
    this.views = state.view;
    for (const [name, box] of Object.entries(this.boxes)) box.hidden = !this.views.includes(name);
    this.secondary.hidden = state.controls !== "all";
    this.controls.primary.hidden = state.controls === "none";
    this.legend.hidden = state.plain;
    this.strip.setInterlinear(!state.plain && this.words.querySelector("input").checked);
    this.traceBox.classList.toggle("sk-learn-plain", state.plain);
    for (const part of SECTIONS) this.traceBox.classList.toggle(`sk-learn-no-${part}`, !state.parts.includes(part));
    const { plotly, pinHover } = this;
    if (this.views.includes("lanes") && !this.lanes) {
      this.lanes = SpecKD.createLanes(this.boxes.lanes, { plotly, height: LANES, ...pinHover });
    }
    if (this.views.includes("compare") && !this.compare) {
      this.compare = SpecKD.createCompare(this.boxes.compare, pinHover);
    }
  }

  showTrace(material, state) {
    const { picture } = this;
    this.material = material;
    this.makeTraceParts();
    this.runBox.hidden = this.studyBox.hidden = this.decodingBox.hidden = true;
    this.traceBox.hidden = false;
    if (this.player) this.player.halt();
    this.showViews(state);
    Object.assign(picture.state.knobs, state.knobs);
    if (picture.state.trace !== material.trace) {
      picture.setTrace(material.trace, { pin: state.pin });
      if (this.compare) this.compare.setTrace(material.trace);
    } else {
      picture.hover(-1);
      picture.setKnobs({});
      picture.pin(state.pin, false);
    }
    this.showVerdict(state.pin, picture.state);
    if (this.shows("lanes")) this.showLanes(material, state);
    if (this.shows("compare")) {
      this.compare.setTrace(material.trace);
      this.compare.paint(picture.state.gated, picture.state.knobs);
      this.compare.setPinned(state.pin);
      this.compare.repaint();
    }
    const { config } = material.trace;
    const chip = material.own ? "your sentence" : "recorded";
    this.caption(chip, Boolean(material.own), config.prompt, `${config.student} student`, SpecKD.madeBy(config));
  }
  showLanes(material, state) {
    const { gated, knobs } = this.picture.state;
    const tall = large.matches ? 1.6 : 1;
    const height = tall * (state.lanes.length ? 66 + 38 * state.lanes.length : LANES);
    this.lanes.setHeight(height);
    this.lanes.setFigure(chosenLanes(material, state.lanes));
    this.lanes.setPinned(state.pin);
    this.lanes.paint(gated, knobs);
  }

  /* --- a recorded run: its curves and its probe, at a step ----------------------------------------------------- */

  makeRunParts() {
    if (this.race) return;
    this.player = SpecKD.createPlayer({
      duration: (last) => STRIDE * last,
      reached: () => this.run.steps,
      onStep: (step) => this.toMoment(step),
      still: calm,
    });
    this.raceBox = card("race");
    this.probeBox = card("probe");
    this.runBox.append(el("div", { class: "sk-learn-play" }, ...this.player.nodes), this.raceBox, this.probeBox);
    const move = (step) => {
      this.player.halt();
      this.toMoment(step);
    };
    const { plotly, charts: figures } = this;
    this.race = SpecKD.createRace(this.raceBox, { plotly, figures, height: 200, onStep: move });
    this.probe = SpecKD.createProbe(this.probeBox, { onMoment: move });
  }
  toMoment(step) {
    this.moment = Math.max(0, Math.min(this.run.steps, step));
    this.seen = Math.max(this.seen, this.moment);
    this.race.setMoment(this.moment, this.seen);
    this.probe.setMoment(this.moment, this.seen);
    this.player.show({ moment: this.moment, last: this.run.steps });
    this.onMoved();
  }
  showRun(run, state) {
    this.makeRunParts();
    this.traceBox.hidden = this.studyBox.hidden = this.decodingBox.hidden = true;
    this.runBox.hidden = false;
    this.player.halt();
    this.views = state.view;
    this.raceBox.hidden = !this.views.includes("race");
    this.probeBox.hidden = !this.views.includes("probe");
    /** @type {NodeListOf<HTMLElement>} */
    const charts = this.raceBox.querySelectorAll(".sk-race-chart");
    for (const one of charts) one.hidden = state.charts.length > 0 && !state.charts.includes(one.dataset.quantity);
    this.raceBox.dataset.charts = String(state.charts.length || 3);
    /** @type {NodeListOf<HTMLElement>} */
    const plots = this.raceBox.querySelectorAll(".sk-plot");
    for (const plot of plots) plot.style.height = this.chartHeight(state.charts.length || 3) + "px";
    this.run = run;
    this.moment = state.step;
    this.seen = this.moment > 0 ? Infinity : 0;
    this.race.show(run, { step: this.moment, until: this.seen });
    this.probe.show(run, { step: this.moment, upTo: this.seen, racer: state.racer });
    this.player.show({ moment: this.moment, last: run.steps });
    const { student, seed } = run.start;
    this.caption("recorded run", false, SpecKD.told(`${student} student`), `${run.steps} steps, seed ${seed}`, "");
  }

  /* Charts alone on a large screen stand one below the other and share its height. */
  chartHeight(n) {
    if (this.views.includes("probe")) return 180;
    const room = this.element.parentElement.clientHeight - 180;
    return large.matches ? Math.max(200, Math.min(620, room / n - 34)) : 300;
  }

  /* The picture as a card to share. */
  card(host) {
    if (!this.studyBox.hidden) return SpecKD.mapImage(this.cells, this.study, host);
    if (!this.runBox.hidden) return SpecKD.shareCard(SpecKD.raceCardOf({ run: this.run, moment: this.moment, host }));
    const { picture, strip } = this;
    const lanes = this.shows("lanes") ? this.lanes : null;
    return SpecKD.inspectCard({ picture, lanes, host, interlinear: strip.isInterlinear() });
  }

  /* --- the map of the study, as the tab of that name shows it ---------------------------------------------------- */

  makeStudyParts() {
    if (this.grid) return;
    this.says = el("p", { class: "sk-learn-says" });
    this.grid = SpecKD.createStudyGrid({ id: "sk-learn-map", onOpen: () => {} });
    this.toMap = el("button", { type: "button", class: "sk-button", text: SpecKD.tr("Open it on the Map") });
    this.toMap.addEventListener("click", () => {
      const { control, rows, columns } = this.shownStudy;
      const { chosen } = this.grid;
      const cell = chosen ? { cell: chosen.dataset.key } : {};
      SpecKD.address.go("map", { figure: this.figure, rows, columns, against: control, ...cell });
    });
    const box = card("map");
    box.append(this.says, this.grid.element, SpecKD.mapLegend());
    this.studyBox.append(box, el("p", {}, this.toMap));
  }
  showStudy(map, state) {
    this.makeStudyParts();
    this.traceBox.hidden = this.runBox.hidden = this.decodingBox.hidden = true;
    this.studyBox.hidden = false;
    if (this.player) this.player.halt();
    this.study = map;
    this.figure = state.figure || state.study.figure;
    this.shownStudy = { ...state.study, rows: state.rows || state.study.rows };
    const { rows, columns } = this.shownStudy;
    const cells = this.cells = SpecKD.mapCells(map, { rows, columns, figure: this.figure, runs: "all" });
    this.says.textContent = SpecKD.mapSentence(cells, map);
    const first = cells.tiles[0];
    this.grid.show(cells, first ? first.arm.key : "", this.figure);
    const every = [rows, columns].includes("figure");
    const name = every ? SpecKD.tr("every figure") : SpecKD.figureName(this.figure);
    this.caption(SpecKD.tr("the study"), false, name, SpecKD.controlName(map.control), "");
  }

  /* --- a recorded decoding: its clock, a round, the rows, a token, the figures ----------------------------------- */

  makeDecodingParts() {
    if (this.decoded) return;
    const places = {};
    for (const place of Object.values(DECODED)) {
      places[place] = el("div", { class: `sk-learn-card sk-decode-${place === "facts" ? "facts-box" : place}` });
    }
    const made = SpecKD.createDecodeParts(places, { onPin: this.onMoved, onMoment: this.onMoved });
    made.parts.facts.recorded = true;
    this.decoded = { ...made, places };
    const { clock, stage, rows, card: token, facts } = places;
    this.decodingBox.append(made.scrub, clock, stage, token, rows, facts);
  }
  showDecoding(decoding, state) {
    this.makeDecodingParts();
    this.traceBox.hidden = this.runBox.hidden = this.studyBox.hidden = true;
    this.decodingBox.hidden = false;
    if (this.player) this.player.halt();
    this.decoded.player.halt();
    this.views = state.view;
    for (const [view, place] of Object.entries(DECODED)) {
      this.decoded.places[place].hidden = !this.views.includes(view);
    }
    this.decoded.picture.show(decoding, { pin: state.pin });
    const { config } = decoding;
    this.caption("recorded", false, config.prompt, `draft ${config.draft}`, SpecKD.madeDecoding(config));
  }
  decodingMoved({ round, node }) {
    const { pin } = this.decoded.picture.state;
    return !pin || pin.round !== round || pin.node !== node;
  }

  /* --- what an answer changes, and what has moved -------------------------------------------------------------- */

  /* What Check reveals is shown in the picture too: the step's state with what the answer changes. */
  reveal(state, change) {
    const { picture } = this;
    if (state.trace && this.material) {
      const knobs = { ...picture.state.knobs, ...change.knobs };
      this.showTrace(this.material, { ...state, ...change, knobs, pin: change.pin ?? picture.state.pinned });
    } else if (state.study && this.study) this.showStudy(this.study, { ...state, ...change });
    else if (state.decoding && this.decoded) {
      const { decoding, pin } = this.decoded.picture.state;
      this.showDecoding(decoding, { ...state, ...change, pin: pin || state.pin });
    } else if (state.run && this.run) this.showRun(this.run, { ...state, ...change, step: change.step ?? this.moment });
    this.onMoved();
  }
  moved(state) {
    const { trace, pinned, knobs } = this.picture.state;
    if (state.trace && trace) {
      return pinned !== state.pin || Object.entries(state.knobs).some(([name, value]) => knobs[name] !== value);
    }
    if (state.study) return this.figure !== state.study.figure || this.shownStudy.rows !== state.study.rows;
    if (state.decoding && this.decoded) return this.decodingMoved(state.pin);
    return Boolean(state.run) && this.moment !== state.step;
  }
  point(root, names, options) {
    SpecKD.pointAt(root, names, options);
  }
}

SpecKD.createLessonStage = (options) => new LessonStage(options);
