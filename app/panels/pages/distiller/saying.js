/* One answer of the student, rewritten as it trains: a line a racer, at the moment that everything shows. What is new
   since its last answer is marked. */

const { el, tr, visible } = SpecKD;

/* How many words two texts begin with alike. */
function alike(words, before) {
  let n = 0;
  while (n < words.length && words[n] === before[n]) n++;
  return n;
}

class DistillSaying {
  constructor() {
    this.prompt = el("bdi", { class: "sk-muted sk-saying-prompt" });
    const head = el(
      "div",
      { class: "sk-saying-head" },
      el("h2", { class: "sk-race-title", text: tr("An answer, as it is learned") }),
      this.prompt,
    );
    this.lines = el("div", { class: "sk-saying-lines" });
    this.element = el("section", { class: "sk-saying", hidden: true }, head, this.lines);
    this.shown = this.racers = "";
    this.rows = [];
  }
  show(run, moment) {
    const told = run && run.start && run.racers.some((racer) => racer.sayings.length);
    this.element.hidden = !told;
    if (!told) return;
    const now = run.racers.map((racer) => SpecKD.lastAt(racer.sayings, moment));
    const key = `${run.key}/${now.map((one) => (one ? one.step : "")).join("/")}`;
    if (key === this.shown) return;
    this.shown = key;
    this.prompt.textContent = run.start.probe ? visible(run.start.probe.prompt) : "";
    const racers = `${run.key}/${run.racers.map((racer) => racer.letter).join("/")}`;
    if (racers !== this.racers) { // not at each step: who reads a line by keyboard stays on it
      this.racers = racers;
      this.rows = run.racers.map((racer) => this.line(racer));
      this.lines.replaceChildren(...this.rows.map((row) => row.element));
    }
    this.rows.forEach((row, i) => this.fill(row, run.racers[i], now[i]));
  }
  line(racer) {
    const label = `${tr("An answer, as it is learned")}, ${racer.letter}`;
    const text = el("p", { class: "sk-saying-text", dir: "auto", tabindex: "0", role: "group", "aria-label": label });
    const step = el("span", { class: "sk-muted sk-small" });
    const letter = el("b", { class: `sk-racer-${racer.letter.toLowerCase()}`, text: racer.letter });
    const element = el("div", { class: "sk-saying-line" }, SpecKD.racerMark(racer.index), letter, step, text);
    return { element, step, text };
  }
  fill(row, racer, now) {
    row.step.textContent = now ? tr("step {n}", { n: now.step }) : "";
    row.text.replaceChildren();
    if (!now) return;
    const before = racer.sayings.filter((one) => one.step < now.step).pop();
    const words = visible(now.text).split(/(?<=\s)/u);
    const kept = before ? alike(words, visible(before.text).split(/(?<=\s)/u)) : words.length;
    row.text.append(words.slice(0, kept).join(""), el("span", { class: "sk-new", text: words.slice(kept).join("") }));
  }
}

SpecKD.createDistillSaying = () => new DistillSaying();
