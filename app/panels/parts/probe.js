/* The probe: one held-out response measured again while a student trains. Tokens across, training steps down, one cell
   for each; its fill is 1 - TVD as in the strip, and a rejected cell is hatched. The server sends thresholds, so the k
   slider re-gates every row here by comparison. Below it stands the strip of the step that is looked at.

   Cells are drawn on a canvas; what a cell says is in the readout below, which follows pointer and arrow keys. */

const { el, percent, format } = SpecKD;
const FILLS = { acceptance: "1 − TVD", divergence: "divergence" };
const HOW = "Arrow keys walk over steps and tokens, Enter goes to a step.";
const NOWHERE = { row: -1, t: -1 };
let serial = 0;

class Probe {
  /** @param {HTMLElement} root @param {Parameters<SpecKDParts["createProbe"]>[1]} options */
  constructor(root, { onMoment = (_step) => {}, onRacer = (_racer) => {}, lessons = {} } = {}) {
    this.onMoment = onMoment;
    this.onRacer = onRacer;
    this.id = `sk-probe-${++serial}`;
    /** @type {Run | null} */
    this.run = null;
    this.racer = 0;
    this.moment = 0;
    this.until = Infinity; // rows beyond are not there yet
    this.fill = "acceptance";
    this.knobs = { kind: "topk", k: SpecKD.DEFAULT_KNOBS.k };
    this.cell = NOWHERE; // under the pointer or the arrow keys
    this.frame = 0;
    this.shape = null; // where things are on the canvas
    this.lastShown = null; // the row that was brought into view
    this.readout = SpecKD.createProbeReadout();
    this.strip = SpecKD.createProbeStrip({
      now: () => this.now(),
      onHover: (t) => this.look(this.shownRow(), t),
      onPin: (t) => {
        this.look(this.shownRow(), t);
        this.speak();
      },
    });
    const below = this.makeBelow();
    const sheet = this.makeSheet();
    const about = { class: "sk-probe", "aria-label": "Probe" };
    root.append(el("section", about, this.makeHead(lessons.probe), ...sheet, below));
    this.heatmap = SpecKD.createHeatmap(this.canvas, this.sheet, this.box);
    this.listen();
    this.showKnobs();
    this.tell();
  }

  /* --- the nodes ----------------------------------------------------------------------------------------------- */

  /** @param {[string, string] | undefined} lesson */
  makeHead(lesson) {
    const name = el("span", { text: "The probe" });
    const heading = el("h2", { class: "sk-probe-title" }, name, lesson ? SpecKD.lesson(...lesson) : null);
    this.prompt = el("bdi", { class: "sk-probe-prompt sk-muted" });
    const group = { role: "radiogroup", "aria-label": "Racer" };
    this.racers = el("div", { class: "sk-segments sk-segments-small", ...group });
    this.fills = el("select", { class: "sk-select", "aria-label": "What the fill shows" });
    for (const [value, text] of Object.entries(FILLS)) {
      this.fills.append(el("option", { value, text: `fill: ${text}` }));
    }
    const id = `${this.id}-k`;
    const about = { class: "sk-slider", id, "aria-label": `k of the probe, from 1 to ${SpecKD.K_MAX}` };
    this.k = el("input", { type: "range", min: 1, max: SpecKD.K_MAX, step: 1, ...about });
    this.rule = el("span", { class: "sk-muted" });
    this.kShown = el("output", { for: id, class: "sk-probe-k-value" });
    const symbol = el("span", { class: "sk-symbol", text: "k" });
    this.kBox = el("label", { class: "sk-probe-k", for: id }, this.rule, symbol, this.k, this.kShown);
    const names = el("div", { class: "sk-probe-names" }, heading, this.prompt);
    return el("div", { class: "sk-probe-head" }, names, this.racers, this.fills, this.kBox);
  }
  makeSheet() {
    this.canvas = el("canvas", {
      class: "sk-probe-canvas",
      tabindex: "0",
      role: "application",
      "aria-roledescription": "heatmap",
      "aria-describedby": `${this.id}-how`,
    });
    this.rowMark = el("div", { class: "sk-probe-row", "aria-hidden": "true" });
    this.cellMark = el("div", { class: "sk-probe-cell", "aria-hidden": "true" });
    this.sheet = el("div", { class: "sk-probe-sheet" }, this.canvas, this.rowMark, this.cellMark);
    this.box = el("div", { class: "sk-probe-box" }, this.sheet);
    this.empty = el("p", { class: "sk-probe-empty sk-small sk-muted" });
    const how = el("span", { class: "sk-hidden", id: `${this.id}-how`, text: HOW });
    return [this.box, this.empty, this.readout.element, this.readout.spoken, how];
  }
  makeBelow() {
    this.ramp = el("span", { class: "sk-probe-ramp" });
    const sample = (kind) => el("span", { class: `sk-token sk-${kind}`, text: SpecKD.tr(kind) });
    const legend = el("div", { class: "sk-probe-legend sk-muted" }, sample("accepted"), sample("rejected"), this.ramp);
    const line = el("div", { class: "sk-probe-line sk-small" }, this.strip.says, legend);
    return el("div", { class: "sk-probe-below" }, line, this.strip.box);
  }

  listen() {
    const { canvas } = this;
    this.k.addEventListener("input", () => {
      this.knobs = { ...this.knobs, k: Number(this.k.value) };
      this.showKnobs();
      this.paint();
    });
    this.fills.addEventListener("change", () => {
      this.fill = this.fills.value;
      this.draw();
    });
    canvas.addEventListener("pointermove", (event) => {
      const { row, t } = this.cellAt(event);
      this.look(row, t);
    });
    canvas.addEventListener("pointerleave", () => this.look(-1, -1));
    canvas.addEventListener("blur", () => this.look(-1, -1));
    canvas.addEventListener("click", (event) => {
      const { row, t } = this.cellAt(event);
      if (row < 0) return;
      this.look(row, t);
      this.onMoment(this.rows()[row].step);
      this.strip.setCursor(t);
    });
    canvas.addEventListener("focus", () => {
      if (this.cell.row >= 0 || !canvas.matches(":focus-visible")) return;
      this.look(this.shownRow(), 0);
      this.speak();
    });
    canvas.addEventListener("keydown", (event) => this.walk(event));
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.box);
    this.theme = new MutationObserver(() => {
      this.heatmap.refresh();
      this.draw();
    });
    this.theme.observe(document.body, { attributes: true, attributeFilter: ["class"] });
  }
  walk(event) {
    const last = this.rows().length - 1;
    if (event.altKey || event.ctrlKey || event.metaKey || !this.shape || last < 0) return;
    const row = this.cell.row < 0 ? this.shownRow() : this.cell.row;
    const t = Math.max(0, this.cell.t);
    const goal = {
      ArrowRight: [row, t + 1],
      ArrowLeft: [row, t - 1],
      ArrowDown: [row + 1, t],
      ArrowUp: [row - 1, t],
      Home: [row, 0],
      End: [row, this.shape.n - 1],
      PageDown: [last, t],
      PageUp: [0, t],
    }[event.key];
    if (goal) {
      event.preventDefault();
      this.look(Math.max(0, Math.min(last, goal[0])), Math.max(0, Math.min(this.shape.n - 1, goal[1])));
      this.reveal();
      this.speak();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.onMoment(this.rows()[row].step);
      this.speak();
    }
  }

  /* --- what there is to show ----------------------------------------------------------------------------------- */

  current() {
    return (this.run && this.run.racers[this.racer]) || null;
  }
  rows() {
    const one = this.current();
    return one ? one.probes.filter((row) => row.step <= this.until) : [];
  }
  tokens() {
    return this.run && this.run.start && this.run.start.probe ? this.run.start.probe.tokens : [];
  }
  accepts(row, t) {
    return row[SpecKD.GATES[this.knobs.kind].column][t] <= this.knobs.k;
  }
  rate(row) {
    const n = this.tokens().length;
    let kept = 0;
    for (let t = 0; t < n; t++) kept += this.accepts(row, t) ? 1 : 0;
    return n ? kept / n : NaN;
  }
  shownRow() {
    let found = -1;
    this.rows().forEach((row, i) => {
      if (row.step <= this.moment) found = i;
    });
    return found;
  }

  /* --- the gate that marks the cells: the racer's own, and k as the visitor likes ------------------------------ */

  ownKnobs() {
    const one = this.current();
    if (!one) return;
    const own = [one, ...this.run.racers].map((other) => other.gate).find((gate) => SpecKD.hasK(gate.kind));
    const { gate: kind, k } = SpecKD.DEFAULT_KNOBS; // all open: what a gate would say of it
    this.knobs = { kind: own ? own.kind : kind, k: (own && own.k) || k };
  }

  showKnobs() {
    const one = this.current();
    const own = one && SpecKD.hasK(one.gate.kind);
    this.rule.textContent = SpecKD.GATES[this.knobs.kind].label;
    const none = `has no k of its own: the marks say what ${this.rule.textContent} would.`;
    this.kBox.title = one && !own ? `${one.name} ${SpecKD.told(none)}` : "";
    this.k.value = String(this.knobs.k);
    this.k.style.setProperty("--at", `${((this.knobs.k - 1) / (SpecKD.K_MAX - 1)) * 100}%`);
    this.k.setAttribute("aria-valuetext", `${this.rule.textContent}, k = ${this.knobs.k}`);
    this.kShown.textContent = String(this.knobs.k);
  }

  showRacers() {
    this.racers.hidden = !this.run || this.run.racers.length < 2;
    this.racers.replaceChildren();
    for (const one of this.run ? this.run.racers : []) {
      const input = el("input", {
        type: "radio",
        name: `${this.id}-racer`,
        id: `${this.id}-racer-${one.index}`,
        value: one.index,
      });
      input.checked = one.index === this.racer;
      input.addEventListener("change", () => {
        this.choose(one.index);
        this.onRacer(one.index);
      });
      this.racers.append(input, el("label", { for: input.id, title: SpecKD.visible(one.name), text: one.letter }));
    }
  }

  choose(index) {
    if (this.racer === index) return;
    this.racer = index;
    for (const input of this.racers.querySelectorAll("input")) input.checked = Number(input.value) === this.racer;
    this.ownKnobs();
    this.showKnobs();
    this.cell = NOWHERE;
    this.paint();
  }

  /* --- drawing ------------------------------------------------------------------------------------------------- */

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.drawNow());
  }
  drawNow() {
    const { run } = this;
    const tokens = this.tokens();
    const nothing = !tokens.length;
    this.sheet.hidden = nothing;
    this.empty.hidden = !nothing;
    const measured = run && run.start && !run.start.probe;
    this.empty.textContent = SpecKD.told(
      measured ? "This run measures no probe." : "The probe appears when a run starts.",
    );
    if (nothing || !this.box.clientWidth) return;
    const rows = this.rows();
    this.shape = SpecKD.probeShape(run, tokens.length, this.box);
    const largest = this.heatmap.paint(this.shape, {
      run,
      rows,
      tokens,
      past: this.shownRow(),
      fill: this.fill,
      pinned: this.cell.t,
      accepts: (row, t) => this.accepts(row, t),
      rate: (row) => this.rate(row),
    });
    const byChance = this.fill === "acceptance";
    const least = byChance ? "one draw passes, 1 − TVD 0 " : "divergence 0 ";
    const most = byChance ? "1" : format(largest, "nats", { unit: true });
    this.ramp.replaceChildren(SpecKD.told(least), el("span", { class: "sk-ramp" }), " " + most);
    this.label(rows);
    this.place();
    this.canvas.dataset.rows = String(rows.length);
    this.canvas.dataset.painted = String(Number(this.canvas.dataset.painted || 0) + 1);
  }

  label(rows) {
    const { kind, k } = this.knobs;
    const rate = (row) => percent(this.rate(row));
    const [first, last] = [rows[0], rows.at(-1)];
    const text = first
      ? `Heatmap of ${this.tokens().length} tokens across and ${rows.length} measurements down, ` +
        `from step ${first.step} to ${last.step}, of racer ${this.current().letter}. ` +
        `${SpecKD.GATES[kind].label}, k = ${k}, accepts ${rate(first)} at first and ${rate(last)} at last.`
      : "Heatmap without a measurement yet.";
    this.canvas.setAttribute("aria-label", SpecKD.told(text));
  }

  /* The marks of the moment's row and of the looked-at cell lie over the canvas. */
  place() {
    const { shape, rowMark, cellMark, cell } = this;
    const rows = this.rows();
    const row = rows[this.shownRow()];
    rowMark.hidden = !row;
    if (row) {
      rowMark.style.transform = `translate(${shape.left - 2}px, ${shape.y(row) - 2}px)`;
      rowMark.style.width = shape.n * shape.column + 3 + "px";
      rowMark.style.height = shape.tall(row) + 3 + "px";
      this.keepInView(row);
    }
    const over = rows[cell.row];
    cellMark.hidden = !over || cell.t < 0;
    if (cellMark.hidden) return;
    cellMark.style.transform = `translate(${shape.x(cell.t) - 1}px, ${shape.y(over) - 1}px)`;
    cellMark.style.width = shape.column + 1 + "px";
    cellMark.style.height = shape.tall(over) + 1 + "px";
  }
  /* In a long run the moment's row may lie outside the box. */
  keepInView(row) {
    const { shape, box } = this;
    if (shape.height > box.clientHeight + 4 && this.lastShown !== row) {
      const y = shape.y(row);
      const above = y < box.scrollTop + shape.top;
      const below = y + 2 * shape.high > box.scrollTop + box.clientHeight;
      if (above || below) box.scrollTop = y - box.clientHeight / 2;
    }
    this.lastShown = row;
  }

  /* --- one cell ------------------------------------------------------------------------------------------------ */

  tell() {
    this.readout.show(this.rows()[this.cell.row], this.cell.t, this.tokens(), this.knobs);
  }
  speak() {
    this.readout.speak(this.rows()[this.cell.row], this.cell.t, this.tokens(), this.knobs);
  }

  look(row, t) {
    if (row === this.cell.row && t === this.cell.t) return;
    const column = this.cell.t;
    this.cell = { row, t };
    if (!this.shape) return;
    this.place();
    this.tell();
    this.strip.setCursor(row === this.shownRow() ? t : -1);
    if (column !== t) this.draw(); // the token's name above its column
  }

  cellAt(event) {
    if (!this.shape) return { row: -1, t: -1 };
    const frameBox = this.canvas.getBoundingClientRect();
    const t = Math.floor((event.clientX - frameBox.left - this.shape.left) / this.shape.column);
    const y = event.clientY - frameBox.top;
    let row = -1;
    this.rows().forEach((one, i) => {
      if (y >= this.shape.y(one) && y < this.shape.y(one) + this.shape.tall(one)) row = i;
    });
    return { row, t: t >= 0 && t < this.shape.n && row >= 0 ? t : -1 };
  }

  reveal() {
    const row = this.rows()[this.cell.row];
    const [x, y] = [this.shape.x(this.cell.t), this.shape.y(row)];
    if (
      x < this.box.scrollLeft + this.shape.left || x + this.shape.column > this.box.scrollLeft + this.box.clientWidth
    ) {
      this.box.scrollLeft = x - this.box.clientWidth / 2;
    }
    if (y < this.box.scrollTop || y + this.shape.high > this.box.scrollTop + this.box.clientHeight) {
      this.box.scrollTop = y - this.box.clientHeight / 2;
    }
  }

  /* --- what is shown ------------------------------------------------------------------------------------------- */

  /* The moment's row, for the strip below. */
  now() {
    const at = this.shownRow();
    const row = this.rows()[at] || null;
    const tokens = this.tokens();
    return {
      run: this.run,
      racer: this.current(),
      row,
      tokens,
      accepted: Uint8Array.from(row ? tokens : [], (_, t) => (this.accepts(row, t) ? 1 : 0)),
      rate: row ? this.rate(row) : NaN,
      cursor: this.cell.row === at ? this.cell.t : -1,
    };
  }
  paint() {
    this.tell();
    this.strip.show();
    this.draw();
  }

  /* The run has more events, or is another one. */
  show(next, { step = this.moment, upTo = Infinity, racer: wanted = null } = {}) {
    const fresh = next !== this.run || next.shownKey !== next.key;
    this.run = next;
    if (fresh && this.run.start) {
      this.run.shownKey = this.run.key;
      this.racer = Math.min(this.racer, Math.max(0, this.run.racers.length - 1));
      this.cell = NOWHERE;
      this.ownKnobs();
      this.showRacers();
      this.showKnobs();
      this.prompt.textContent = this.run.start.probe ? SpecKD.visible(this.run.start.probe.prompt) : "";
      this.prompt.title = this.prompt.textContent;
    }
    this.moment = step;
    this.until = upTo;
    if (wanted !== null && wanted !== this.racer && this.run.racers[wanted]) this.choose(wanted);
    this.paint();
  }

  setMoment(step, upTo = Infinity) {
    if (step === this.moment && upTo === this.until) return;
    this.moment = step;
    this.until = upTo;
    if (!this.run) return;
    this.strip.show();
    this.draw();
    this.tell();
  }

  state() {
    return {
      racer: this.racer,
      knobs: this.knobs,
      fill: this.fill,
      cell: this.cell,
      rows: this.rows(),
      shown: this.shownRow(),
      accepted: this.rows().map((row) => this.tokens().map((_, t) => this.accepts(row, t))),
    };
  }

  cellCentre(row, t) {
    return { x: this.shape.x(t) + this.shape.column / 2, y: this.shape.y(this.rows()[row]) + this.shape.high / 2 };
  }

  destroy() {
    this.observer.disconnect();
    this.theme.disconnect();
    cancelAnimationFrame(this.frame);
    this.strip.destroy();
  }
}

SpecKD.createProbe = (root, options) => new Probe(root, options);
