/* A sentence of one's own: asked here, and from then on the lessons' numbers are computed from it. Also what the server
   keeps for lessons: their words, traces and runs, each asked for once. */

const { el, tr } = SpecKD;
const STOP_PATIENCE = 900; // milliseconds until Stop no longer waits for the server's last word

class OwnSentence {
  constructor({ id, options, onChange }) {
    this.server = options.server;
    this.onChange = onChange;
    this.own = null; // {key, trace, figure}, once there is one
    this.button = el("button", {
      type: "button",
      class: "sk-button sk-quiet sk-learn-own-button",
      "aria-expanded": "false",
      "aria-controls": `${id}-own`,
      text: tr("Try your own sentence"),
    });
    this.question = el("input", {
      type: "text",
      class: "sk-text sk-learn-question",
      "aria-label": tr("Your question"),
      placeholder: tr("Ask a question of your own"),
      maxlength: options.prompt_limit,
      dir: "auto",
      autocomplete: "off",
      spellcheck: "false",
    });
    const run = el("button", { type: "submit", class: "sk-button sk-primary sk-run", text: tr("Run") });
    const back = {
      type: "button",
      class: "sk-button sk-quiet",
      text: tr("Back to the recorded sentence"),
      hidden: true,
    };
    this.back = el("button", back);
    const text = el("p", { class: "sk-status sk-learn-status", role: "status" });
    this.box = el(
      "form",
      { class: "sk-learn-own", id: `${id}-own`, novalidate: true, hidden: true },
      el("div", { class: "sk-learn-own-line" }, this.question, run),
      el("div", { class: "sk-learn-own-line" }, text, this.back),
    );
    this.bar = SpecKD.progressBar();
    this.say = SpecKD.createStatus({ text, bar: this.bar });
    this.asking = SpecKD.createAsking({
      button: run,
      label: tr("Run"),
      patience: STOP_PATIENCE,
      server: options.server,
      trigger: options.trigger,
      say: this.say,
      onImpatient: () => this.finish("stopped", "Stopped."),
    });
    this.listen();
  }
  current() {
    return this.own;
  }

  listen() {
    this.button.addEventListener("click", () => {
      this.show(this.box.hidden);
      if (this.box.hidden || this.asking.busy()) return;
      this.server.status().then((now) => {
        if (!this.asking.busy()) this.say(now.state === "failed" ? "failed" : "ready", now.text);
      }, () => {});
    });
    this.box.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.asking.busy()) this.asking.stop();
      else this.asking.start({ prompt: this.question.value });
    });
    this.back.addEventListener("click", () => {
      this.own = null;
      this.back.hidden = true;
      this.say("ready", "The recorded sentence is back.");
      this.onChange();
    });
  }
  show(yes, focus = true) {
    this.box.hidden = !yes;
    this.button.setAttribute("aria-expanded", String(yes));
    if (yes && focus) this.question.focus();
  }
  finish(state, text) {
    this.asking.forget();
    this.say(state, text);
  }
  /* Something could not be fetched: it is said where the server's words stand. */
  complain(error) {
    const told = error && error.message && !/fetch|network/i.test(error.message);
    this.say("failed", told ? error.message : SpecKD.NO_ANSWER);
    this.show(true, false);
  }

  update(value) {
    if (!value.run || !this.asking.heard(value)) return; // the last words of a run that nobody waits for
    if (value.state === "done" && value.result) {
      const { id, trace, figure } = value.result;
      this.own = { key: id, own: true, trace: SpecKD.readTrace(trace), figure: JSON.parse(figure) };
      this.back.hidden = false;
      this.finish("done", "The lesson now speaks of your sentence.");
      this.onChange();
    } else if (value.state === "stopped" || value.state === "failed") this.finish(value.state, value.text);
    else this.say(value.state, value.text, value.share);
  }
}

SpecKD.createOwnSentence = (options) => new OwnSentence(options);

SpecKD.createLessonMaterial = function (server, own, { language, draw }) {
  const kept = new Map(); // promises, by name; one that failed is asked for again
  function once(name, ask, make) {
    if (!kept.has(name)) {
      const asked = ask().then((answer) => {
        if (answer.error) throw new Error(answer.error);
        return make(answer);
      });
      asked.catch(() => kept.delete(name));
      kept.set(name, asked);
    }
    return kept.get(name);
  }
  const readTrace = ({ trace, figure }) => ({ trace: SpecKD.readTrace(trace), figure: JSON.parse(figure) });
  const readRun = (name) => ({ events }) => {
    const run = SpecKD.createRun().add(JSON.parse(events));
    run.key = name;
    return run;
  };
  return {
    lesson(id) {
      const mine = own.current();
      const key = mine ? mine.key : null;
      const asked = { id, own: key, language, draw: id === "final" ? draw() : null };
      const name = `lesson/${id}/${key}/${asked.draw}`;
      return once(name, () => server.lesson(asked), (answer) => JSON.parse(answer.lesson));
    },
    trace(name) {
      const mine = own.current();
      if (mine && name === "healed") return Promise.resolve(mine);
      return once(`trace/${name}`, () => server.material({ trace: name }), readTrace);
    },
    study: (control) =>
      once(`study/${control}`, () => server.material({ study: control }), (one) => JSON.parse(one.map)),
    run: (name) => once(`run/${name}`, () => server.material({ run: name }), readRun(name)),
    decoding: (name) =>
      once(
        `decoding/${name}`,
        () => server.material({ decoding: name }),
        ({ record, facts }) => SpecKD.readDecoding(record, facts),
      ),
  };
};
