/* The selectors on one text, stacked as rows of marks: the gate, the selectors it competes with, and chance. At an
   equal budget each may keep as many tokens as the gate accepts. */

const { el, percent, number } = SpecKD;
const ROW = 18; // pixels
const BUDGETS = { equal: "as many tokens as the gate accepts", own: "each at its own usual fraction" };
let serial = 0;

const head = (attributes, ...children) => el("th", { scope: "col", ...attributes }, ...children);
const figure = (text) => el("td", { class: "sk-num", text });
const heading = (text) => el("h2", { class: "sk-section", text });

/* A bar for every token, as high as its weight. */
function paintMarks(canvas, level, n) {
  const ratio = devicePixelRatio || 1;
  const width = canvas.parentNode.clientWidth;
  canvas.style.width = width + "px";
  canvas.style.height = ROW + "px";
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = ROW * ratio;
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  const ink = style.getPropertyValue("--sk-mark").trim();
  const pale = style.getPropertyValue("--sk-rule").trim();
  const step = canvas.width / n;
  const wide = Math.max(step - (step > 4 * ratio ? ratio : 0), 0.5);
  const line = 2 * ratio;
  for (let t = 0; t < n; t++) {
    pen.fillStyle = pale;
    pen.fillRect(t * step, canvas.height - line, wide, line);
    if (level[t] <= 0) continue;
    const tall = Math.max(line, level[t] * (canvas.height - line));
    pen.fillStyle = ink;
    pen.fillRect(t * step, canvas.height - tall, wide, tall);
  }
}

class SelectorTable {
  /** @param {HTMLElement} root @param {PinHover} options */
  constructor(root, { onPin = () => {}, onHover = () => {} } = {}) {
    this.onPin = onPin;
    this.onHover = onHover;
    /** @type {Trace | null} */
    this.trace = null;
    /** @type {Gated | null} */
    this.gated = null;
    /** @type {Knobs | null} */
    this.knobs = null;
    this.pinned = -1;
    this.hovered = -1;
    this.equal = true;
    this.stale = true;
    this.element = this.make();
    root.append(this.element);
    this.observer = new ResizeObserver(() => this.repaint());
    this.observer.observe(this.rowsBox);
  }

  make() {
    this.budget = el("p", { class: "sk-muted sk-small" });
    this.table = el("table", { class: "sk-rows" });
    this.overlay = el("div", { class: "sk-rows-cursor", "aria-hidden": "true" });
    this.pinMark = el("div", { class: "sk-rows-pin", "aria-hidden": "true" });
    this.rowsBox = el("div", { class: "sk-rows-box" }, this.table, this.overlay, this.pinMark);
    this.rowsBox.addEventListener("pointermove", (event) => this.onHover(this.tokenAt(event)));
    this.rowsBox.addEventListener("pointerleave", () => this.onHover(-1));
    this.rowsBox.addEventListener("click", (event) => {
      const t = this.tokenAt(event);
      if (t >= 0) this.onPin(t);
    });
    this.agreement = el("table", { class: "sk-jaccard" });
    this.chance = el("p", { class: "sk-muted sk-small" });
    const region = { tabindex: "0", role: "region", "aria-label": "Agreement of the selectors" };
    const scroll = el("div", { class: "sk-scroll", ...region }, this.agreement);
    const which = heading("Which tokens each selector keeps");
    return el(
      "section",
      { class: "sk-compare", "aria-label": "Compare selectors" },
      el("div", { class: "sk-compare-left" }, which, this.makeChoice(), this.budget, this.rowsBox),
      el("div", { class: "sk-compare-right" }, heading("How far they agree"), scroll, this.chance),
    );
  }
  makeChoice() {
    const name = `sk-compare-${++serial}`;
    const legend = el("legend", { class: "sk-hidden", text: "How many tokens each selector may keep" });
    const choice = el("fieldset", { class: "sk-choice" }, legend);
    for (const [value, text] of Object.entries(BUDGETS)) {
      const input = el("input", { type: "radio", name, value, checked: value === "equal" });
      input.addEventListener("change", () => {
        this.equal = value === "equal";
        this.repaint();
      });
      choice.append(el("label", {}, input, " " + text));
    }
    return choice;
  }

  canvas() {
    return this.table.querySelector("canvas");
  }
  tokenAt(event) {
    const canvas = this.canvas();
    if (!canvas || !this.trace) return -1;
    const frame = canvas.getBoundingClientRect();
    const x = event.clientX - frame.left;
    return x < 0 || x >= frame.width ? -1 : Math.floor((x / frame.width) * this.trace.tokens.length);
  }

  /* Every selector with the tokens that it keeps. */
  selections() {
    const { trace, gated, knobs } = this;
    const m = SpecKD.budget(gated.tar, gated.n);
    const { label, says } = SpecKD.GATES[knobs.gate];
    const name = knobs.gate === "none" ? label : `${label}, k = ${knobs.k}`;
    const rows = [{ name, says, kept: gated.accepted }];
    const twin = { topk: "speck", speck: "topk" }[knobs.gate];
    if (twin) {
      const other = SpecKD.GATES[twin];
      const kept = SpecKD.regate(trace, { ...knobs, gate: twin }).accepted;
      rows.push({ name: `${other.label}, k = ${knobs.k}`, says: other.says + " (at its own rate)", kept });
    }
    for (const [key, selector] of Object.entries(SpecKD.SELECTORS)) {
      const most = this.equal ? m : SpecKD.budget(selector.own_fraction, gated.n);
      rows.push({ name: selector.label, says: selector.says, kept: SpecKD.keep(trace.ranks[key], most) });
    }
    return { rows, m };
  }

  repaint() {
    const { trace, gated } = this;
    this.stale = !trace || !gated || gated.n !== trace.tokens.length || !this.element.clientWidth;
    if (this.stale) return;
    const { rows, m } = this.selections();
    this.budget.textContent = SpecKD.told(
      this.equal
        ? `The gate accepts ${m} of ${gated.n} tokens; every ranking below keeps its first ${m}.`
        : "AdaKD and teacher entropy 50%, student entropy 20%, random 50%.",
    );
    this.showRows(rows);
    this.showAgreement(rows);
    const expected = number(m > 0 ? m / (2 * gated.n - m) : 0, 2);
    const agree = "Jaccard: tokens kept by both, over tokens kept by either. " +
      `Two random choices of ${m} of ${gated.n} would agree to about ${expected}.`;
    this.chance.textContent = SpecKD.told(agree);
  }

  showRows(rows) {
    const { n, divergence } = this.gated;
    const body = el("tbody", {});
    const paints = [];
    const add = ({ kind = null, name, index, says, level, kept, about }) => {
      const canvas = el("canvas", { role: "img", "aria-label": about });
      paints.push([canvas, level]);
      body.append(el(
        "tr",
        { class: kind },
        el("th", { scope: "row", title: says }, el("span", { class: "sk-index", text: index }), name),
        el("td", { class: "sk-marks" }, canvas),
        figure(kept),
        figure(percent(SpecKD.keptShare(divergence, level))),
      ));
    };
    rows.forEach(({ name, says, kept }, i) => {
      const count = kept.reduce((sum, one) => sum + one, 0);
      const about = `${name} keeps ${count} of ${n} tokens`;
      add({ name, index: String(i + 1), says, level: kept, kept: percent(count / n), about });
    });
    const says = "a weight, not a choice: the design that SelecTKD rejects";
    const about = "Hellinger weights, from 0 to 1";
    const level = this.trace.hellinger;
    add({ kind: "sk-soft", name: "Hellinger weight", index: "", says, level, kept: "soft", about });
    const top = el(
      "tr",
      {},
      head({ text: "selector" }),
      head({ text: `tokens 1 to ${n}` }),
      head({ class: "sk-num", text: "kept" }),
      head({ class: "sk-num", text: "of the loss" }),
    );
    this.table.replaceChildren(el("thead", {}, top), body);
    for (const [canvas, heights] of paints) paintMarks(canvas, heights, n);
    this.place();
  }

  showAgreement(rows) {
    const top = el("tr", {}, el("td", {}));
    const body = el("tbody", {});
    rows.forEach((row, i) => {
      const index = String(i + 1);
      const seen = el("span", { "aria-hidden": "true", text: index });
      top.append(head({ title: row.name }, seen, el("span", { class: "sk-hidden", text: row.name })));
      const line = el("tr", {}, el("th", { scope: "row" }, el("span", { class: "sk-index", text: index }), row.name));
      rows.forEach((other, j) => {
        const value = SpecKD.jaccard(row.kept, other.kept).toFixed(2);
        const cell = el("td", { class: "sk-num" + (i === j ? " sk-same" : ""), text: i === j ? "·" : value });
        if (i !== j) cell.style.setProperty("--j", value);
        line.append(cell);
      });
      body.append(line);
    });
    this.agreement.replaceChildren(el("thead", {}, top), body);
  }

  /* Cursor and pin lie over the marks, so that moving them draws nothing again. */
  place() {
    const canvas = this.canvas();
    const put = (node, t) => {
      const there = canvas && this.trace && t >= 0;
      node.style.display = there ? "" : "none";
      if (!there) return;
      const frame = canvas.getBoundingClientRect();
      const step = frame.width / this.trace.tokens.length;
      const from = frame.left - this.rowsBox.getBoundingClientRect().left;
      node.style.transform = `translateX(${from + t * step}px)`;
      node.style.width = Math.max(2, step) + "px";
    };
    put(this.overlay, this.hovered);
    put(this.pinMark, this.pinned);
  }

  setTrace(trace) {
    this.trace = trace;
  }
  paint(gated, knobs) {
    this.gated = gated;
    this.knobs = knobs;
    this.repaint();
  }
  setCursor(t) {
    this.hovered = t;
    this.place();
  }
  setPinned(t) {
    this.pinned = t;
    this.place();
  }
  refresh() {
    if (this.stale) this.repaint();
    else this.place();
  }
  destroy() {
    this.observer.disconnect();
  }
}

SpecKD.createCompare = (root, options) => new SelectorTable(root, options);
