/* The Inspect page: one line of controls, the response as a strip, the lanes below it, the verdict beside it.

   The server is asked for three things only: run a question, stop it, and write a file to keep. Everything about the
   gate happens here. What is shown can always be told from the address: its #fragment holds every knob. */

const BEFORE_OPENING = 900; // milliseconds that a first picture stands still
const STOP_PATIENCE = 900; // milliseconds until Stop no longer waits for the server's last word
const SAME = ["prompt", "teacher", "student", "source", "max_new_tokens", "temperature", "seed"];
const { el, visible, tr } = SpecKD;
let serial = 0;

class InspectPage {
  constructor(root, options) {
    this.root = root;
    this.server = options.server;
    this.limits = options.limits;
    this.recorded = options.recorded;
    this.id = `sk-inspector-${++serial}`;
    this.owner = serial === 1; // one Inspect owns the address; a second on the page leaves it alone
    this.trail = SpecKD.createTrail(this); // pictures that "continue from here" led away from
    this.prefix = []; // token ids that the response begins with, from a clicked alternative
    this.shown = null; // {id, word, trace}: what the picture shows
    this.wish = null; // a question from the address that waits for the page to be ready
    this.booted = false;

    const remember = () => this.remember();
    this.picture = SpecKD.createPicture({ onKnobs: remember, onPin: remember });
    this.makeTop(options);
    this.makeNodes();
    this.makePictures(options.plotly);
    this.asking = SpecKD.createAsking({
      button: this.ask.run,
      label: "Run",
      patience: STOP_PATIENCE,
      server: this.server,
      trigger: options.trigger,
      say: this.say,
      onImpatient: () => this.finish("stopped", "Stopped."),
    });
    const copyLink = () => this.copyLink();
    const { server, say, limits } = this;
    SpecKD.createInspectKeep({ button: this.keepButton, server, say, limits, page: this, copyLink });
  }
  get form() {
    return this.settings.form;
  }
  set form(form) {
    this.settings.form = form;
  }

  /* --- the page ------------------------------------------------------------------------------------------------ */

  makeTop({ limits, own_models: ownModels, pairs = [], place = "", students, examples }) {
    this.ask = SpecKD.createAskLine({
      recorded: this.recorded,
      examples,
      busy: () => this.asking.busy(),
      onText: (text) => {
        this.form.prompt = text;
        this.remember();
      },
      onRecorded: (name) => this.openRecorded(name),
      onRun: () => this.start(),
      onStop: () => this.asking.stop(),
    });
    const about = { "aria-label": "Settings: pair, source, length, temperature, seed", title: "Settings" };
    const button = SpecKD.iconButton(about, "M2 4h12M2 8h12M2 12h12");
    const onChange = () => this.remember();
    this.settings = SpecKD.createInspectSettings({
      id: this.id,
      button,
      limits,
      ownModels,
      pairs,
      place,
      students,
      onChange,
    });
    this.controls = SpecKD.createControls({
      knobs: this.picture.state.knobs,
      onChange: (change) => this.picture.setKnobs(change),
    });
    const { primary, secondary } = this.controls;
    this.gateLine = el("div", { class: "sk-gate-line" }, primary);
    primary.querySelector(".sk-tar-name").append(SpecKD.lesson("gate", "the token acceptance rate"));
    const [betaField, divergenceField] = secondary.querySelectorAll(".sk-field");
    betaField.after(SpecKD.lesson("gate", "the gate, k and beta"));
    divergenceField.after(SpecKD.lesson("divergences", "divergences"));
    this.top = el("header", { class: "sk-top" }, button, this.ask.element);
  }

  makeNodes() {
    const status = SpecKD.createStatusLine();
    this.say = status.say;
    this.legend = SpecKD.legend();
    this.legend.append(SpecKD.lesson("propose-verify", "acceptance and 1 − TVD"));
    this.caption = SpecKD.createCaption();
    this.stripBox = el("div", { class: "sk-strip-box" });
    this.lanesBox = el("div", { class: "sk-lanes-box" });
    this.sideBox = el("div", { class: "sk-app-side" });
    this.compareBox = el("div", { class: "sk-app-compare", id: `${this.id}-compare`, hidden: true });
    const compareButton = SpecKD.revealButton("Compare selectors", this.compareBox, () => this.compare.repaint());
    this.keepButton = el("button", { type: "button", class: "sk-button sk-quiet", text: "Keep" });
    const foot = el("div", { class: "sk-foot" }, status.element, compareButton, this.keepButton);
    this.top.append(el("div", { class: "sk-caption" }, this.caption.chip, this.caption.line), status.bar);
    const { stripBox, legend, lanesBox, gateLine } = this;
    const second = el("div", { class: "sk-second" }, this.controls.secondary);
    const main = el("div", { class: "sk-app-main" }, stripBox, gateLine, legend, lanesBox, second);
    this.notice = SpecKD.createNotice();
    this.app = el(
      "div",
      { class: "sk-app" },
      this.notice.element,
      el("h1", { class: "sk-lead", text: tr(SpecKD.LEAD) }),
      this.top,
      el("div", { class: "sk-app-grid" }, main, this.sideBox, foot),
      this.compareBox,
      this.settings.drawer,
    );
    this.root.append(this.app);
  }

  makePictures(plotly) {
    const { picture } = this;
    const pinHover = { onPin: (t) => picture.pin(t), onHover: (t) => picture.hover(t) };
    this.strip = SpecKD.createStrip(this.stripBox, pinHover);
    this.legend.append(SpecKD.interlinearSwitch(this.strip));
    this.verdict = SpecKD.createVerdict(this.sideBox, { onAlternative: (t, id) => this.continueFrom(t, id) });
    this.opening = SpecKD.createOpening({ verdict: this.verdict, strip: this.strip, host: this.app });
    this.sideBox.append(this.opening.button);
    this.lanes = SpecKD.createLanes(this.lanesBox, { plotly, height: 0, ...pinHover });
    this.compare = SpecKD.createCompare(this.compareBox, pinHover);
    picture.add(this.controls);
    picture.add(this.strip);
    picture.add({ setShown: (t, state) => this.verdict.show(state.trace, t, state.gated, state.knobs) });
    picture.add(this.lanes, { late: true });
    picture.add(this.compare, { late: true });
    const theme = new MutationObserver(() => this.compare.repaint());
    theme.observe(document.body, { attributes: true, attributeFilter: ["class"] });
  }

  /* --- asking -------------------------------------------------------------------------------------------------- */

  showForm() {
    this.ask.question.value = this.form.prompt;
    this.settings.show();
    this.markSame();
  }
  start({ from = [], pin = null } = {}) {
    this.prefix = from;
    this.app.classList.add("sk-running");
    this.asking.start({ question: { ...this.form, prefix_ids: from } }, { pin, pending: false });
  }
  finish(state, text) {
    const { pending } = this.asking.current();
    this.asking.forget();
    this.app.classList.remove("sk-running");
    if (pending && this.shown && state !== "done") this.restore();
    this.say(state, text);
  }
  restore() {
    const { trace, pinned } = this.picture.state;
    if (!trace) return;
    this.picture.setTrace(trace, { pin: pinned });
    this.describe();
  }

  /* A clicked alternative: the same settings as the picture on screen, the response so far, and the new token. */
  continueFrom(t, tokenId) {
    if (this.asking.busy() || !this.shown) return;
    const { trace } = this.shown;
    this.form = this.formOf(trace.config);
    if (this.form.source === "given") this.form = { ...this.form, source: "teacher", response: "" };
    const from = trace.input_ids.slice(trace.n_prompt, trace.n_prompt + t).concat([tokenId]);
    this.form.max_new_tokens = Math.min(this.limits.tokens, Math.max(this.form.max_new_tokens, from.length + 16));
    this.showForm();
    this.trail.leave();
    this.start({ from, pin: t });
  }
  /* A picture from the trail, as it was left. */
  comeBack({ shown, form, prefix, pin }) {
    this.prefix = prefix;
    this.form = form;
    this.showForm();
    this.show(shown.result, pin, shown.word);
    this.verdict.focus();
  }
  formOf(config) {
    const { prompt, teacher, student, source, max_new_tokens, temperature, seed } = config;
    const response = source === "given" && this.shown ? this.shown.trace.response : "";
    const do_sample = Boolean(config.do_sample);
    return { prompt, teacher, student, source, response, do_sample, max_new_tokens, temperature, seed };
  }

  /* --- what the server says ------------------------------------------------------------------------------------ */

  update(value) {
    if (!this.booted) {
      this.booted = true;
      this.boot(value);
      return;
    }
    const job = this.asking.heard(value);
    if (!job) return; // the last words of a run that nobody waits for
    if (value.state === "done" && value.result) {
      this.finish("done", value.text);
      this.show(value.result, job.pin);
      this.trail.arrived();
    } else if (value.state === "stopped" || value.state === "failed") {
      this.finish(value.state, value.text);
      this.trail.failed();
      SpecKD.markField(this.app, value.field, value.text);
    } else {
      if (value.partial !== null && value.partial !== undefined) this.showPending(job, value.partial);
      this.say(value.state, value.text, value.share);
    }
  }
  showPending(job, text) {
    if (!job.pending) {
      this.caption.show({ word: "writing", question: this.form.prompt, made: SpecKD.madeBy(this.form) });
    }
    job.pending = true;
    this.strip.setPending(text);
  }

  describe() {
    const { config } = this.shown.trace;
    const detail = [
      tr("teacher sha256 {sum}", { sum: config.teacher_sha256 }),
      tr("student sha256 {sum}", { sum: config.student_sha256 }),
      `${config.dtype}, ${config.device}; speckd ${config.speckd}, torch ${config.torch}, ` +
      `transformers ${config.transformers}`,
    ];
    const { word } = this.shown;
    const made = SpecKD.madeBy(config);
    this.caption.show({ word, question: config.prompt, made, detail: detail.join("\n") });
    this.trail.describe(this.caption.line);
  }
  show(result, pin = null, word = result.recorded ? "recorded" : "live") {
    const trace = SpecKD.readTrace(result.trace);
    this.shown = { id: result.id, word, trace, result };
    this.lanes.setFigure(typeof result.figure === "string" ? JSON.parse(result.figure) : result.figure);
    this.describe();
    this.picture.setTrace(trace, { pin });
    this.root.dataset.shown = String(Number(this.root.dataset.shown || 0) + 1);
    this.remember();
  }
  /* A picture that was not asked for here: the form follows it. */
  open(result, pin, word) {
    this.prefix = [];
    this.show(result, pin, word);
    this.form = this.formOf(this.shown.trace.config);
    this.showForm();
    this.remember();
  }

  /* --- the beginning: a recorded answer at once, or what the address asks for ---------------------------------- */

  boot(value) {
    const params = this.owner ? SpecKD.address.params("inspect") : new URLSearchParams();
    const asked = this.settings.fromAddress(params);
    Object.assign(this.picture.state.knobs, asked.knobs);
    this.controls.show(this.picture.state.knobs);
    if (value.result) {
      this.show(value.result, asked.form ? null : asked.at);
      this.form = this.formOf(this.shown.trace.config);
    }
    this.showForm();
    this.remember();
    if (asked.form) this.fulfil(asked);
    else this.watchModels();
    if (this.owner && !asked.form && SpecKD.address.tab() === "inspect") {
      setTimeout(() => !this.asking.busy() && this.opening.offer(), BEFORE_OPENING);
    }
    if (this.owner) SpecKD.address.listen("inspect", (more) => this.hear(more));
  }
  fulfil(asked) {
    this.form = { ...speckdWords.defaults.question, ...asked.form };
    this.notice.checkStudent(this.form);
    this.showForm();
    const known = asked.start.length ? null : this.recorded.find((one) => this.asksFor(one.config));
    if (known) this.openRecorded(known.name, asked.at);
    else {
      this.wish = asked;
      this.say("loading", "Opening the question in this address.");
    }
    this.watchModels();
  }
  asksFor(config) {
    const { form } = this;
    if (form.source === "given" || Boolean(form.do_sample) !== Boolean(config.do_sample)) return false;
    return SAME.every((name) => form[name] === config[name]);
  }
  openRecorded(name, pin = null) {
    if (this.shown && this.shown.id === `recorded:${name}`) { // it is on the screen already
      this.open(this.shown.result, pin);
      return;
    }
    SpecKD.askRecorded(this, name, (result) => this.open(result, pin));
  }
  watchModels() {
    SpecKD.watchModels({
      server: this.server,
      say: this.say,
      quiet: () => this.asking.busy() || this.wish !== null,
      onLoaded: () => {
        if (!this.wish || this.asking.busy()) return;
        const { start: from, at: pin } = this.wish;
        this.wish = null;
        this.start({ from, pin });
      },
    });
  }

  /* --- the address --------------------------------------------------------------------------------------------- */

  remember() {
    this.markSame();
    if (this.owner) SpecKD.address.write("inspect", this.toAddress());
  }
  /* The caption names the question again only where the field says another. */
  markSame() {
    const named = this.caption.line.querySelector(".sk-caption-question");
    if (named) named.classList.toggle("sk-same", named.textContent === visible(this.form.prompt));
  }
  toAddress() {
    const { knobs, pinned } = this.picture.state;
    const params = this.settings.toAddress(knobs);
    if (this.shown && this.form.prompt === this.shown.trace.config.prompt) {
      if (this.prefix.length) params.set("start", this.prefix.join("."));
      if (pinned >= 0) params.set("at", String(pinned + 1));
    }
    return params;
  }
  hear(params) {
    if (!this.booted || this.asking.busy() || this.trail.returned()) return;
    const asked = this.settings.fromAddress(params);
    this.picture.setKnobs(asked.knobs);
    this.controls.show(this.picture.state.knobs);
    if (asked.form) this.fulfil(asked);
    else if (asked.at !== null) this.picture.pin(asked.at);
  }
  copyLink() {
    this.remember();
    const own = this.form.student.startsWith("trained:");
    const mine = tr("The link is copied. Only you have this student: others will see the healed one.");
    return SpecKD.copyLink(this.say, own ? mine : undefined);
  }

  /* For tests. */
  state() {
    return { form: this.form, shown: this.shown, run: this.asking.current(), prefix: this.prefix };
  }
}

SpecKD.createInspector = function (root, options) {
  const page = new InspectPage(root, options);
  root.inspector = page;
  return (value) => page.update(value);
};
