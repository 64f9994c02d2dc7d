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
    this.shown = "";
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
    this.lines.replaceChildren(...run.racers.map((racer, i) => this.line(racer, now[i])));
  }
  line(racer, now) {
    const text = el("p", { class: "sk-saying-text", dir: "auto" });
    if (now) {
      const before = racer.sayings.filter((one) => one.step < now.step).pop();
      const words = visible(now.text).split(/(?<=\s)/u);
      const kept = before ? alike(words, visible(before.text).split(/(?<=\s)/u)) : words.length;
      text.append(words.slice(0, kept).join(""), el("span", { class: "sk-new", text: words.slice(kept).join("") }));
    }
    const step = el("span", { class: "sk-muted sk-small", text: now ? tr("step {n}", { n: now.step }) : "" });
    const letter = el("b", { class: `sk-racer-${racer.letter.toLowerCase()}`, text: racer.letter });
    return el("div", { class: "sk-saying-line" }, SpecKD.racerMark(racer.index), letter, step, text);
  }
}

SpecKD.createDistillSaying = () => new DistillSaying();
