/* The Distill page: a short training run that a visitor starts, watches and takes home.

   One line of controls; then three charts, the probe below them, and the figures beside them. All of it shows one
   moment of one run: the scrubber, a click into a chart and a click on a row of the probe all move to another. Before
   anything is started a recorded run plays. The server streams a run as events; what was missed is asked for again. */

const STOP_PATIENCE = 180_000; // milliseconds until Stop no longer waits: the last figures are taken first
const PLAY = 6000; // milliseconds that a recorded run plays
const ENDED = ["done", "stopped", "failed"];
/** @type {Record<string, [string, string]>} */
const RACE_LESSONS = {
  loss: ["imitate", "the loss"],
  divergence: ["divergences", "divergences"],
  tar: ["gate", "the token acceptance rate"],
};
const { el, tr, visible } = SpecKD;
let serial = 0;

class DistillPage {
  constructor(root, options) {
    const { students = {}, gates = [], limits = {}, defaults = {}, own_models: ownModels = false } = options;
    this.root = root;
    this.server = options.server;
    this.recorded = options.recorded || [];
    this.id = `sk-distiller-${++serial}`;
    this.address = serial === 1 ? SpecKD.address : null; // one page of its kind owns the address
    this.shown = null; // the run on screen
    this.moment = 0;
    this.following = true; // the newest step of a live run
    this.racerChosen = false;
    this.booted = false;
    this.runs = 0;
    this.waiting = null; // an address that came while a run was under way
    this.sent = new Set(); // students that Inspect knows already

    this.controls = SpecKD.createDistillControls({
      id: this.id,
      students,
      gates,
      limits,
      defaults,
      ownModels,
      say: (state, words) => this.say(state, words),
      rateOf: (spec) => this.rateOf(spec),
      onChange: () => {
        this.remember();
        this.showSide();
      },
      onSubmit: () => (this.asking.busy() ? this.asking.stop() : this.start()),
    });
    this.makeNodes();
    this.makePictures(options);
    this.asking = SpecKD.createAsking({
      button: this.controls.startButton,
      label: "Start",
      stopping: "Stopping after this step.",
      patience: STOP_PATIENCE,
      server: this.server,
      trigger: options.trigger,
      say: this.say,
      onImpatient: () => this.release(),
    });
    this.grew = SpecKD.createPainter(() => this.paintGrown(), () => this.race.drawn());
  }

  makeNodes() {
    this.caption = SpecKD.createCaption();
    this.pick = el("select", { class: "sk-select sk-small", "aria-label": "Recorded run", hidden: true });
    this.player = SpecKD.createPlayer({
      quiet: true,
      duration: () => PLAY,
      reached: () => this.reached(),
      onStep: (step) => this.step(step),
      onHalt: () => this.setMoment(this.moment),
      ready: () => this.race.drawn(),
    });
    const status = SpecKD.createStatusLine("sk-distill-progress");
    this.say = status.say;
    this.bet = SpecKD.createDistillBet(`${this.id}-bet`);
    this.saying = SpecKD.createDistillSaying();
    this.side = SpecKD.createDistillSide({
      bet: this.bet,
      copy: (...words) => SpecKD.copyText(this.say, ...words),
      onInspect: (one, racer) => this.inspect(one, racer),
    });
    this.answers = SpecKD.createDistillAnswers(`${this.id}-answers`);
    this.keep = SpecKD.createDistillKeep({
      server: this.server,
      say: this.say,
      copyLink: () => this.copyLink(),
      moment: () => this.moment,
      host: () => this.app,
      focusStart: () => this.controls.startButton.focus(),
    });
    this.raceBox = el("div", { class: "sk-race-box" });
    this.probeBox = el("div", { class: "sk-probe-outer" });
    const scrub = el("div", { class: "sk-scrub" }, ...this.player.nodes);
    const foot = el("div", { class: "sk-foot" }, status.element, this.answers.button, this.keep.button);
    const main = el("div", { class: "sk-distill-main" }, this.raceBox, this.saying.element, this.probeBox);
    this.app = el(
      "div",
      { class: "sk-app sk-distill" },
      this.controls.top,
      el("div", { class: "sk-caption sk-distill-caption" }, this.caption.chip, this.pick, this.caption.line, scrub),
      status.bar,
      el("div", { class: "sk-distill-grid" }, main, this.side.element, foot),
      this.answers.box,
      this.controls.drawer,
    );
    this.root.append(this.app);
    this.keep.mount();
  }

  makePictures({ plotly, charts }) {
    const onStep = (step) => this.goTo(step);
    this.race = SpecKD.createRace(this.raceBox, {
      plotly,
      figures: charts,
      height: 132,
      onStep,
      lessons: RACE_LESSONS,
    });
    this.probe = SpecKD.createProbe(this.probeBox, {
      onMoment: onStep,
      onRacer: () => {
        this.racerChosen = true;
      },
      lessons: { probe: ["curriculum", "the implicit curriculum"] },
    });
    for (const { name, label } of this.recorded) this.pick.append(el("option", { value: name, text: visible(label) }));
    this.pick.addEventListener("change", () => this.openRecorded(this.pick.value));
  }

  /* --- start and stop ------------------------------------------------------------------------------------------ */

  start() {
    this.controls.read();
    const { form } = this.controls;
    const facts = { run: this.newRun("live"), state: "waiting", missed: [], asking: false, secondsLeft: null };
    facts.run.bet = this.bet.take();
    this.player.halt();
    this.following = true;
    this.racerChosen = false;
    this.app.classList.add("sk-waiting");
    this.remember();
    const request = { ...form, gates: [...form.gates] };
    this.asking.start({ request }, { ...facts, pasted: form.data === "pasted" });
  }
  /* The button is for starting again; what the server still says of the run is heard all the same. */
  release() {
    this.asking.release();
    this.app.classList.remove("sk-waiting");
    this.showScrubber();
  }

  update(value) {
    if (!this.booted) {
      this.booted = true;
      this.boot(value);
      return;
    }
    const job = this.asking.heard(value);
    if (!job) return; // the last words of a run that nobody waits for
    job.state = value.state;
    job.secondsLeft = Number.isFinite(value.seconds_left) ? value.seconds_left : null;
    if (ENDED.includes(job.state)) {
      this.release();
      this.say(job.state, value.text || "");
      if (job.state === "failed") SpecKD.markField(this.app, value.field, value.text || "");
      this.hearAddress();
    } else if (!job.stopped) {
      const untold = job.state === "training" && job.secondsLeft !== null && !/left/.test(value.text || "");
      const left = untold ? ` About ${this.secondsLeft(job)} left.` : "";
      this.say(job.state, (value.text || "") + left, value.share);
    }
    if (typeof value.from === "number") {
      job.missed.push({ from: value.from, events: value.events ? JSON.parse(value.events) : [] });
      SpecKD.catchUp(job, {
        server: this.server,
        isCurrent: (one) => this.asking.current() === one,
        onGrown: this.grew,
      });
    }
    this.showSide();
  }
  secondsLeft(job) {
    const left = Math.max(1, Math.round(job.secondsLeft)); // a guess: whole seconds
    return left < 10 ? `${left} s` : SpecKD.format(left, "seconds");
  }

  paintGrown() {
    const job = this.asking.current();
    if (!job || !job.run.start) return;
    if (this.shown !== job.run) {
      this.shown = job.run;
      this.app.classList.remove("sk-waiting");
      this.describe();
    }
    if (this.following) this.moment = job.run.newest.step;
    this.paint();
  }

  /* --- the moment that everything shows ------------------------------------------------------------------------ */

  isLive() {
    const job = this.asking.current();
    return job !== null && this.shown === job.run;
  }
  until() {
    return this.player.playing() ? this.moment : Infinity;
  }
  reached() {
    return this.shown ? SpecKD.reachedStep(this.shown) : 0;
  }

  paint() {
    if (!this.shown) return;
    const newest = this.isLive() && this.following && !this.racerChosen ? this.shown.newest.racer : null;
    this.race.show(this.shown, { step: this.moment, until: this.until() });
    this.probe.show(this.shown, { step: this.moment, upTo: this.until(), racer: newest });
    this.showScrubber();
    this.reveal();
    this.root.dataset.events = String(this.shown.n);
    this.root.dataset.moment = String(this.moment);
  }
  setMoment(step) {
    this.moment = step;
    this.race.setMoment(this.moment, this.until());
    this.probe.setMoment(this.moment, this.until());
    this.showScrubber();
    this.reveal();
    this.root.dataset.moment = String(this.moment);
  }
  /* The outcome is told once the run has come to its end on screen, and stays told. */
  reveal() {
    const { shown } = this;
    const atEnd = !this.player.playing() && shown !== null && this.moment >= this.reached();
    if (shown && shown.verdict && (atEnd || this.isLive())) shown.revealed = true;
    this.saying.show(shown, this.moment);
    this.showSide();
    this.answers.show(shown);
  }
  /* The player's own steps; anything else stops it. */
  step(step) {
    if (this.player.playing()) this.setMoment(step);
    else this.goTo(step);
  }
  goTo(step) {
    if (!this.shown) return;
    this.player.halt();
    const newest = this.isLive() ? this.shown.newest.step : this.reached();
    this.following = this.isLive() && step >= newest && this.shown.newest.step === newest;
    this.setMoment(Math.max(0, Math.min(step, this.reached())));
  }

  showScrubber() {
    const last = Math.max(1, this.shown ? Math.max(this.shown.steps, this.reached()) : 1);
    const locked = this.asking.busy() && this.isLive();
    this.player.show({ moment: this.moment, last, nothing: !this.shown, locked });
  }
  now() {
    const job = this.asking.current();
    const waiting = this.asking.busy() && this.isLive() && job.secondsLeft !== null;
    const revealed = Boolean(this.shown && this.shown.revealed);
    return { moment: this.moment, left: waiting ? this.secondsLeft(job) : "", revealed };
  }
  showSide() {
    const now = this.now();
    this.side.show(this.shown, now);
    const live = this.isLive() && this.asking.busy();
    this.bet.show(this.shown, { live, revealed: now.revealed, two: this.controls.form.gates.length > 1 });
    this.keep.show(this.shown, this.isLive() ? this.asking.current() : null);
  }

  /* What share a gate accepted in the run on screen; null where it ran in none. */
  rateOf(spec) {
    const racer = this.shown && this.shown.racers.find((one) => one.spec === spec);
    const shares = racer ? racer.rows.map((row) => row.tar).filter((x) => Number.isFinite(x)) : [];
    return shares.length ? shares.reduce((sum, x) => sum + x, 0) / shares.length : null;
  }
  inspect(one, racer) {
    if (!this.sent.has(one.value)) {
      this.sent.add(one.value);
      SpecKD.students.add({ value: one.value, label: one.label });
    }
    /** @type {Record<string, string>} */
    const asked = { student: one.value };
    const { probe } = this.shown.start;
    if (probe && probe.prompt) asked.q = probe.prompt;
    if (racer && Object.hasOwn(SpecKD.GATES, racer.gate.kind)) {
      asked.gate = racer.gate.kind;
      for (const name of ["k", "beta"]) if (racer.gate[name] !== undefined) asked[name] = String(racer.gate[name]);
    }
    SpecKD.address.go("inspect", asked);
  }

  /* --- the address --------------------------------------------------------------------------------------------- */

  remember() {
    if (this.address) this.address.write("distill", this.controls.toAddress());
  }
  copyLink() {
    this.remember();
    const done = this.isLive()
      ? tr("The link is copied. It holds the settings; the run itself stays with this page.")
      : tr("The link is copied.");
    return SpecKD.copyLink(this.say, done);
  }

  hearAddress() {
    if (this.waiting) this.controls.fromAddress(this.waiting);
    this.waiting = null;
  }
  /* A run of one's own lives as long as the page: who is about to lose one is asked first. */
  mayLeave(event) {
    const job = this.asking.current();
    if (!job || !job.run.start || (ENDED.includes(job.state) && (!job.run.kept || this.keep.tookHome(job.run)))) return;
    event.preventDefault();
  }

  /* --- the beginning ------------------------------------------------------------------------------------------- */

  newRun(kind) {
    const run = SpecKD.createRun();
    run.key = `${kind}-${++this.runs}`;
    return run;
  }
  describe() {
    const { start, steps, label } = this.shown;
    const mine = this.isLive();
    this.pick.hidden = mine || this.recorded.length < 2;
    const teacher = start.teacher === "packaged" ? "packaged teacher" : start.teacher;
    const name = !mine && this.pick.hidden && label ? label : `${start.student} student`;
    const divergence = (SpecKD.DIVERGENCES[start.divergence] || { label: start.divergence }).label;
    const facts = `${teacher}, ${steps} steps, ${divergence}, seed ${start.seed}`;
    this.caption.show({
      word: mine ? "live" : "recorded",
      question: SpecKD.told(name),
      made: facts,
      detail: visible(tr("teacher sha256 {sum}", { sum: start.teacher_sha256 })),
    });
  }

  showRecorded(recording) {
    const run = this.newRun("recorded");
    run.label = recording.label || "";
    run.add(JSON.parse(recording.events));
    if (!run.start) return;
    this.shown = run;
    this.describe();
    this.moment = this.reached();
    const plays = !matchMedia("(prefers-reduced-motion: reduce)").matches && this.moment > 0;
    if (plays) {
      this.player.announce();
      this.moment = 0;
    }
    this.paint();
    if (plays) this.player.begin();
    this.root.dataset.shown = String(Number(this.root.dataset.shown || 0) + 1);
  }
  openRecorded(name) {
    SpecKD.askRecorded(this, name, (recording) => {
      this.player.halt();
      this.showRecorded(recording);
    });
  }

  boot(value) {
    this.controls.fromAddress(this.address ? this.address.params("distill") : new URLSearchParams());
    this.controls.show();
    this.showScrubber();
    if (value.recorded && value.recorded.events) this.showRecorded(value.recorded);
    else {
      this.caption.clear();
      this.race.show(this.newRun("none"));
      this.probe.show(this.newRun("none"));
      this.answers.show(null);
      this.keep.show(null, null);
    }
    if (this.address) {
      this.address.listen("distill", (params) => {
        this.waiting = params;
        if (!this.asking.busy()) this.hearAddress();
        else this.say("waiting", tr("A run is under way: what this address sets waits until it has ended."));
      });
    }
    globalThis.addEventListener("beforeunload", (event) => this.mayLeave(event));
    SpecKD.watchModels({ server: this.server, say: this.say, quiet: () => this.asking.current() !== null });
  }

  /* For tests. */
  state() {
    const { shown, moment, following } = this;
    return {
      form: this.controls.form,
      shown,
      live: this.asking.current(),
      moment,
      following,
      playing: this.player.playing(),
    };
  }
}

SpecKD.createDistiller = function (root, options) {
  const page = new DistillPage(root, options);
  root.distiller = page;
  return (value) => page.update(value);
};
