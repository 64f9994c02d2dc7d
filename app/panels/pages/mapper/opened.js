/* The comparison that is open: what it says, its runs' curves, its bite, its answers, and how to repeat it. */

const { el, tr } = SpecKD;

class Opened {
  constructor({ id, race, copy }) {
    this.id = id;
    this.race = race;
    this.copy = copy;
    this.key = "";
    this.element = el("section", {
      class: "sk-map-card sk-map-opened",
      "aria-label": tr("The comparison that is open"),
    });
  }
  clear() {
    this.key = "";
    this.element.replaceChildren();
  }
  async show(one, control, ask) {
    const key = JSON.stringify([one.arm.key, one.figure, control]);
    if (key === this.key) return;
    this.key = key;
    const answer = await ask();
    if (this.key !== key) return;
    this.element.replaceChildren(el("h2", { text: SpecKD.armName(one.arm.gate) }));
    if (!answer || !answer.cell) this.element.append(el("p", { text: (answer && answer.error) || SpecKD.NO_ANSWER }));
  }
}

SpecKD.createOpened = (options) => new Opened(options);
