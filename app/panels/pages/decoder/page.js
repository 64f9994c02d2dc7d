/* The Decode page: a question, a draft and a policy on one line; the clock, the round, the rows, and beside them the
   card of one token with the figures. A recorded decoding is there at once; a live one grows round by round.

   The server is asked for a run, its stop, recorded decodings, files to keep and the papers' tables. */

const STOP_PATIENCE = 4500; // milliseconds: a stopped run hands over its rounds first
const SAME = ["prompt", "teacher", "student", "draft", "policy", "max_new_tokens", "lenience"];
const { el, tr } = SpecKD;
let serial = 0;

const div = (kind, ...children) => el("div", { class: kind }, ...children);

class DecodePage {
  constructor(root, options) {
    this.root = root;
    this.options = options;
    this.server = options.server;
    this.limits = options.limits;
    this.recorded = options.recorded;
    this.id = `sk-decoder-${++serial}`;
    this.owner = serial === 1;
    this.shown = null; // {id, word, decoding}
    this.before = null; // what was on screen before the run that is under way
    this.live = null; // the decoding that grows
    this.wish = false; // a request from the address waits for the models
    this.booted = false;
    this.makeTop(options);
    this.makeNodes();
    this.makeParts();
    this.asking = SpecKD.createAsking({
      button: this.ask.run,
      label: tr("Run"),
      stopping: tr("Stopping after this step."),
      patience: STOP_PATIENCE,
      server: this.server,
      trigger: options.trigger,
      say: this.say,
      onImpatient: () => this.finish("stopped", tr("Stopped.")),
    });
    const { server, say, limits } = this;
    const copyLink = () => this.copyLink();
    SpecKD.createDecodeKeep({ button: this.keepButton, server, say, limits, page: this, copyLink });
    this.select.addEventListener("change", () => {
      if (this.select.value && !this.asking.busy()) this.openRecorded(this.select.value);
    });
  }

  /* --- the page ------------------------------------------------------------------------------------------------ */

  makeTop({ limits, own_models: ownModels, pairs = [], place = "", students, defaults, examples }) {
    this.ask = SpecKD.createAskLine({
      examples,
      busy: () => this.asking.busy(),
      onText: (text) => {
        this.settings.form.prompt = text;
        this.remember();
      },
      onRun: () => this.start(),
      onStop: () => this.asking.stop(),
    });
    const label = tr("Settings: pair, draft, policy, temperature, seed, length");
    const button = SpecKD.iconButton({ "aria-label": label, title: tr("Settings") }, "M2 4h12M2 8h12M2 12h12");
    const onChange = () => this.remember();
    const more = { limits, ownModels, pairs, place, students, defaults, onChange };
    this.settings = SpecKD.createDecodeSettings({ id: this.id, button, ...more });
    const heading = el("h1", { class: "sk-hidden", text: tr("Decode, round by round") });
    this.settings.line.append(SpecKD.lesson("drafts", tr("drafts and speed")));
    this.top = el("header", { class: "sk-top sk-decode-top" }, heading, button, this.ask.element, this.settings.line);
  }
  makeNodes() {
    const status = SpecKD.createStatusLine("sk-decode-progress");
    this.bar = status.bar;
    this.say = status.say;
    this.caption = SpecKD.createCaption();
    this.select = el("select", { class: "sk-select", "aria-label": tr("Recorded decodings") });
    this.select.append(el("option", { value: "", text: tr("recorded…") }));
    for (const { name, label } of this.recorded) this.select.append(el("option", { value: name, text: tr(label) }));
    this.places = {};
    for (const name of ["clock", "stage", "rows", "card"]) this.places[name] = div(`sk-decode-${name}`);
    this.places.facts = div("sk-decode-facts-box");
    this.papersBox = el("div", { class: "sk-app-compare sk-papers", id: `${this.id}-papers`, hidden: true });
    const papers = SpecKD.revealButton(tr("The papers’ tables"), this.papersBox, () => {
      const onOpen = (name) => this.openCell(name);
      SpecKD.showPapers(this.papersBox, { server: this.server, plotly: this.options.plotly, say: this.say, onOpen });
    });
    papers.hidden = !this.options.papers;
    this.keepButton = el("button", { type: "button", class: "sk-button sk-quiet", text: tr("Keep") });
    this.foot = div("sk-foot", status.element, papers, this.keepButton);
  }
  makeParts() {
    const onPin = () => this.remember();
    const onMoment = () => this.remember();
    const { clock, stage, rows, card, facts } = this.places;
    const made = SpecKD.createDecodeParts(this.places, { onPin, onMoment });
    this.picture = made.picture;
    this.player = made.player;
    this.parts = made.parts;
    this.caption.line.classList.add("sk-decode-made");
    this.rule = el("span"); // what a bar is
    this.legend = this.makeLegend();
    const head = div(
      "sk-caption sk-decode-caption-line",
      this.caption.chip,
      this.caption.line,
      this.select,
      made.scrub,
    );
    this.app = div(
      "sk-app sk-decode",
      this.top,
      head,
      this.bar,
      clock,
      div(
        "sk-decode-grid",
        div("sk-decode-main", stage, this.legend, rows),
        el(
          "div",
          { class: "sk-decode-side", tabindex: "0", role: "region", "aria-label": tr("Token and figures") },
          card,
          facts,
        ),
        this.foot,
      ),
      this.papersBox,
      this.settings.drawer,
    );
    this.root.append(this.app);
  }
  makeLegend() {
    const sample = (kind) => {
      const mark = el("span", { class: "sk-draft-mark", "aria-hidden": "true", text: SpecKD.VERDICT_MARKS[kind] });
      return el("span", { class: `sk-draft sk-draft-${kind}` }, mark, el("span", { text: SpecKD.verdictWord(kind) }));
    };
    return div(
      "sk-legend sk-decode-legend",
      ...["accepted", "rejected", "unseen"].map(sample),
      this.rule,
      el("span", {}, el("span", { class: "sk-swatch sk-swatch-draft" }), " " + tr("draft")),
      el("span", {}, el("span", { class: "sk-swatch sk-swatch-verify" }), " " + tr("verify")),
      el("span", {}, el("span", { class: "sk-swatch sk-swatch-plain" }), " " + tr("plain decoding, same tokens")),
      SpecKD.lesson("propose-verify", tr("the rule of a draft")),
    );
  }

  /* --- asking -------------------------------------------------------------------------------------------------- */

  showForm() {
    this.ask.question.value = this.settings.form.prompt;
    this.settings.show();
  }
  start() {
    this.player.halt();
    this.before = this.shown;
    this.live = null;
    this.app.classList.add("sk-running");
    this.asking.start({ request: { ...this.settings.form } });
  }
  finish(state, text) {
    this.asking.forget();
    this.app.classList.remove("sk-running");
    if (this.live && this.before && this.shown !== this.before && !this.live.facts && !this.live.rounds.length) {
      this.restore();
    }
    this.live = null;
    this.say(state, text);
  }
  restore() {
    this.shown = this.before;
    if (this.shown) SpecKD.firstLook(this.picture, this.shown.decoding);
    this.describe();
  }

  /* --- what the server says ------------------------------------------------------------------------------------ */

  update(value) {
    if (!this.booted) {
      this.booted = true;
      this.boot(value);
      return;
    }
    const job = this.asking.heard(value);
    if (!job) return;
    if (value.rounds && value.rounds !== "[]") this.grow(JSON.parse(value.rounds), value.from);
    if (value.result) this.show(value.result, null, "live");
    if (["done", "stopped", "failed"].includes(value.state)) this.finish(value.state, value.text);
    else this.say(value.state, value.text, value.share);
  }
  grow(rounds, from) {
    if (!this.live) {
      this.live = SpecKD.newDecoding({ ...this.settings.form, draft: this.settings.form.draft || "…" });
      this.shown = { id: null, word: "live", decoding: this.live };
      this.describe();
      this.picture.show(this.live);
    }
    // An update that was lost on the way leaves a gap, which the record at the end fills.
    if (from !== this.live.rounds.length) return;
    for (const round of rounds) this.live.add(round);
    this.picture.grow();
  }

  show(result, pin = null, word = result.recorded ? "recorded" : "live") {
    const decoding = SpecKD.readDecoding(result.record, result.facts);
    this.shown = { id: result.id, word, decoding, recorded: Boolean(result.recorded), arm: result.arm || null };
    this.parts.facts.recorded = word !== "live";
    this.describe();
    if (word === "live" && !pin) this.picture.show(decoding);
    else SpecKD.firstLook(this.picture, decoding, pin);
    this.root.dataset.shown = String(Number(this.root.dataset.shown || 0) + 1);
    this.remember();
  }
  /* What was not asked for here: the form follows it. */
  open(result, pin, word) {
    this.player.halt();
    this.show(result, pin, word);
    const { config } = this.shown.decoding;
    const form = { ...this.options.defaults };
    for (const name of Object.keys(form)) if (config[name] !== undefined) form[name] = config[name];
    if (result.arm) form.draft = "eagle"; // the draft of a grid's cell is not here: Run takes the one that ships
    this.settings.form = form;
    this.showForm();
    this.remember();
  }
  describe() {
    if (!this.shown) return;
    const { word, decoding } = this.shown;
    const { config } = decoding;
    const detail = config.teacher_sha256
      ? `${tr("teacher sha256 {sum}", { sum: config.teacher_sha256 })}\n${config.dtype}, ${config.device}, ` +
        `${tr("{n} threads", { n: config.threads })}; ` +
        `speckd ${config.speckd}, torch ${config.torch}, transformers ${config.transformers}`
      : "";
    const { arm } = this.shown;
    const made = arm ? `${SpecKD.distilledAs(arm)}; ${SpecKD.madeDecoding(config)}` : SpecKD.madeDecoding(config);
    this.caption.show({ word, question: config.prompt, made, detail });
    const name = arm ? "" : String(this.shown.id || "");
    this.select.value = name.startsWith("recorded:") ? name.slice(9) : "";
    this.rule.textContent = config.do_sample
      ? tr("bar: min(1, p/q); tick: its coin")
      : tr("greedy: the teacher’s first choice passes; bar: min(1, p/q)");
  }

  /* --- the beginning, and the address -------------------------------------------------------------------------- */

  boot(value) {
    const params = this.owner ? SpecKD.address.params("decode") : new URLSearchParams();
    if (value.result) this.open(value.result, this.pinFrom(params));
    else this.showForm();
    this.hear(params);
    if (this.owner) SpecKD.address.listen("decode", (more) => this.hear(more));
    this.watchModels();
  }
  hear(params) {
    if (this.asking.busy()) return;
    const asked = this.settings.fromAddress(params);
    const name = params.get("recorded");
    const known = [...this.recorded.map((one) => one.name), ...this.options.arms];
    if (name && known.includes(name)) this.openRecorded(name, this.pinFrom(params));
    else if (asked) {
      this.settings.form = { ...this.options.defaults, ...asked };
      this.showForm();
      const same = this.recorded.find((one) => this.asksFor(one.config));
      if (same) this.openRecorded(same.name, this.pinFrom(params));
      else this.say("ready", tr("Press Run to decode what this address asks for."));
    }
  }
  asksFor(config) {
    const { form } = this.settings;
    if (Boolean(form.do_sample) !== Boolean(config.do_sample)) return false;
    if (form.do_sample && (form.seed !== config.seed || form.temperature !== config.temperature)) return false;
    return SAME.every((name) => form[name] === config[name]);
  }
  /* at=3 or at=3.own or at=3.2: a round and a token of it, from 1. */
  pinFrom(params) {
    const found = /^([1-9]\d*)\.([1-9]\d*|own)$/.exec(params.get("at") || "");
    return found ? { round: Number(found[1]) - 1, node: found[2] === "own" ? null : Number(found[2]) - 1 } : null;
  }
  openRecorded(name, pin = null) {
    SpecKD.askRecorded(this, name, (result) => this.open(result, pin));
  }
  /* From the papers' grids: the picture that it opens in stands above them. */
  openCell(name) {
    if (this.asking.busy()) {
      this.say("failed", tr("A decoding is under way: stop it, or let it end, then open a recorded one."));
      return;
    }
    SpecKD.askRecorded(this, name, (result) => {
      this.open(result, null);
      this.caption.line.scrollIntoView({ block: "start", behavior: "smooth" });
      this.say("done", tr("Opened: {name}.", { name: SpecKD.distilledAs(result.arm) }));
    });
  }
  watchModels() {
    SpecKD.watchModels({ server: this.server, say: this.say, quiet: () => this.asking.busy() });
  }
  remember() {
    if (this.owner && this.booted) SpecKD.address.write("decode", this.toAddress());
  }
  toAddress() {
    const params = this.settings.toAddress();
    const { pin } = this.picture.state;
    if (this.shown && this.shown.id && String(this.shown.id).startsWith("recorded:")) {
      const { arm, decoding } = this.shown;
      const config = arm ? { ...decoding.config, draft: "eagle" } : decoding.config;
      if (this.asksFor(config)) params.set("recorded", this.shown.id.slice(9));
    }
    if (pin) params.set("at", `${pin.round + 1}.${pin.node === null ? "own" : pin.node + 1}`);
    return params;
  }
  copyLink() {
    this.remember();
    return SpecKD.copyLink(this.say);
  }

  /* For tests. */
  state() {
    const { moment, pin } = this.picture.state;
    return { form: this.settings.form, shown: this.shown, run: this.asking.current(), moment, pin };
  }
}

SpecKD.createDecoder = function (root, options) {
  const page = new DecodePage(root, options);
  root.decoder = page;
  return (value) => page.update(value);
};
