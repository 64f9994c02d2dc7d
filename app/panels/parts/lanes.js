/* The heatmap of one text. It is painted on a canvas of our own, at once and with every step of a slider. Plotly, which
   takes a second to load, draws it for those who ask to zoom; then the weights and the veil that a slider moves lie on
   the canvas above it, and Plotly hears of them when the hand rests. */
const NARROW = 560;
const REST = 180; // milliseconds without a move until Plotly draws the same

const { el } = SpecKD;

class Lanes {
  constructor(root, { plotly, height = 300, onPin = (_t) => {}, onHover = (_t) => {} }) {
    this.src = plotly;
    this.onPin = onPin;
    this.onHover = onHover;
    this.figure = null;
    this.n = 0;
    this.pinned = -1;
    this.hovered = -1;
    this.last = null; // what was painted: {gated, knobs}
    this.plot = null; // Plotly's, once it was asked for
    this.drawn = null; // the divergence and the figure that Plotly has drawn
    this.timer = 0;
    this.pattern = null;
    this.text = ""; // of the figure, and what its strongest colours stand for
    this.tops = null;
    this.sheet = el("canvas", { class: "sk-lanes-sheet", "aria-hidden": "true" });
    this.cursor = el("div", { class: "sk-lanes-cursor", "aria-hidden": "true" });
    this.pinMark = el("div", { class: "sk-lanes-pin", "aria-hidden": "true" });
    this.tip = el("div", { class: "sk-lanes-tip", "aria-hidden": "true", hidden: true });
    this.field = el("div", { class: "sk-plot sk-lanes-field" }, this.sheet, this.cursor, this.pinMark, this.tip);
    if (height) this.field.style.height = height + "px";
    this.box = el("div", { class: "sk-lanes", role: "img", tabindex: "-1" }, this.field);
    root.append(this.box);
    if (plotly) root.append(this.zoomButton());
    this.listen();
  }

  zoomButton() {
    const title = SpecKD.tr("Draw it with Plotly: drag to look closer, double-click to come back");
    const about = { type: "button", class: "sk-lanes-zoom sk-small", title, text: SpecKD.tr("Zoom") };
    this.button = el("button", about);
    this.button.addEventListener("click", () => this.zoom());
    return this.button;
  }

  listen() {
    const { field } = this;
    field.addEventListener("pointermove", (event) => {
      if (this.plot || event.pointerType === "touch") return;
      const { t, row } = this.under(event);
      this.onHover(t);
      this.tell(event, t, row);
    });
    field.addEventListener("pointerleave", () => {
      if (this.plot) return;
      this.tip.hidden = true;
      this.onHover(-1);
    });
    field.addEventListener("click", (event) => {
      const { t } = this.under(event);
      if (!this.plot && t >= 0) this.onPin(t);
    });
    this.observer = new ResizeObserver(() => !this.plot && this.sketch());
    this.observer.observe(field);
    this.theme = new MutationObserver(() => !this.plot && this.sketch());
    this.theme.observe(document.body, { attributes: true, attributeFilter: ["class"] });
  }
  /* The token and the lane under the pointer; -1 beside the heatmap. */
  under({ clientX, clientY }) {
    const at = this.frame();
    const box = this.field.getBoundingClientRect();
    const [x, y] = [clientX - box.left, clientY - box.top];
    if (!at || x < at.l || x >= at.l + at.w || y < at.t || y >= at.t + at.h) return { t: -1, row: -1 };
    const t = Math.max(0, Math.min(this.n - 1, Math.floor((x - at.l) / at.step)));
    return { t, row: Math.floor((y - at.t) / (at.h / this.figure.layout.meta.lanes.length)) };
  }
  tell(event, t, row) {
    const { tip } = this;
    tip.hidden = t < 0 || !this.last;
    if (tip.hidden) return;
    const [text, told] = SpecKD.laneTip(this.figure, t, row, this.last);
    tip.replaceChildren(el("bdi", { text }), el("span", { text: told }));
    const box = this.field.getBoundingClientRect();
    const left = Math.min(event.clientX - box.left + 12, box.width - tip.offsetWidth - 4);
    tip.style.transform = `translate(${Math.max(0, left)}px, ${Math.max(0, event.clientY - box.top - 46)}px)`;
  }

  /* Another student over the same text comes on the scale of the one before, or on its own where that is larger. */
  setFigure(next) {
    const text = next.data[0].text[0].join("\n");
    const { tops } = next.layout.meta;
    const before = this.text === text && this.tops;
    this.tops = { ...tops };
    for (const name of Object.keys(tops || {})) if (before) this.tops[name] = Math.max(tops[name], before[name] ?? 0);
    this.text = text;
    this.figure = tops ? SpecKD.rescaled(next, this.tops) : next;
    this.n = this.figure.data[0].z[0].length;
    this.last = null;
  }
  setHeight(pixels) {
    (this.plot ? this.plot.element : this.field).style.height = pixels + "px";
  }

  paint(gated, knobs) {
    if (!this.figure || gated.n !== this.n) return;
    this.last = { gated, knobs };
    clearTimeout(this.timer);
    const { drawn } = this;
    const stale = !drawn || drawn.figure !== this.figure || drawn.divergence !== knobs.divergence;
    if (this.plot && stale) this.draw();
    else this.sketch();
    if (this.plot && !stale) this.timer = setTimeout(() => this.draw(), REST);
  }

  /* --- Plotly -------------------------------------------------------------------------------------------------- */

  zoom() {
    if (this.plot || !this.last) return undefined;
    const { sheet, cursor, pinMark } = this;
    const height = this.field.clientHeight;
    const onDrawn = () => {
      this.hear();
      this.sketch();
      this.place();
    };
    this.tip.hidden = true;
    this.plot = SpecKD.createPlot(this.box, { src: this.src, height, onDrawn });
    this.plot.element.append(sheet, cursor, pinMark);
    this.field.remove();
    this.button.hidden = true;
    sheet.getContext("2d").clearRect(0, 0, sheet.width, sheet.height);
    return this.draw();
  }
  hear() {
    if (this.listening) return;
    this.listening = true;
    const token = (event) => {
      const t = Math.round(event.points[0].x);
      return t >= 0 && t < this.n ? t : -1;
    };
    this.plot.on("plotly_hover", (event) => this.onHover(token(event)));
    this.plot.on("plotly_unhover", () => this.onHover(-1));
    this.plot.on("plotly_click", (event) => {
      const t = token(event);
      if (t >= 0) this.onPin(t);
    });
    this.plot.on("plotly_relayout", () => {
      this.sketch();
      this.place();
    });
  }
  draw() {
    this.drawn = { figure: this.figure, divergence: this.last.knobs.divergence };
    this.describe();
    return this.plot.show(SpecKD.lanesUnder(this.figure, { ...this.last, narrow: this.narrow() }));
  }

  /* --- on the canvas ------------------------------------------------------------------------------------------- */

  narrow() {
    return (this.plot ? this.plot.element : this.field).clientWidth < NARROW;
  }
  /* The heatmap's frame in pixels, and the range of tokens in view. */
  frame() {
    if (!this.figure) return null;
    if (!this.plot) {
      const { clientWidth: width, clientHeight: height } = this.field;
      return width ? SpecKD.laneFrame(this.figure, { width, height, narrow: this.narrow() }) : null;
    }
    const layout = this.plot.area._fullLayout;
    if (!layout || !layout.xaxis || !layout.xaxis.range) return null;
    const { l, w, t, h } = layout._size;
    const [from, to] = layout.xaxis.range;
    return { l, w, t, h, from, to, step: w / (to - from), x: (token) => l + (token - from) * (w / (to - from)) };
  }

  sketch() {
    const at = this.frame();
    if (!at || !this.last || this.last.gated.n !== this.n) return;
    const ratio = devicePixelRatio || 1;
    const { sheet } = this;
    const { clientWidth: width, clientHeight: tall } = this.plot ? this.plot.element : this.field;
    if (sheet.width !== Math.round(width * ratio) || sheet.height !== Math.round(tall * ratio)) {
      [sheet.width, sheet.height] = [Math.round(width * ratio), Math.round(tall * ratio)];
      [sheet.style.width, sheet.style.height] = [width + "px", tall + "px"];
    }
    const pen = sheet.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, tall);
    this.pattern = this.pattern || SpecKD.hatching(pen);
    const only = this.plot ? ["weight"] : null;
    SpecKD.paintLanes(pen, at, this.figure, this.view(), { only, words: !this.plot });
    this.box.dataset.painted = String(Number(this.box.dataset.painted || 0) + 1);
    if (this.plot) return;
    this.field.dataset.drawn = this.box.dataset.painted;
    this.describe();
    this.place();
  }
  view() {
    const style = getComputedStyle(this.box);
    return {
      ...this.last,
      narrow: this.narrow(),
      pattern: this.pattern,
      colour: (name) => style.getPropertyValue("--sk-" + name).trim(),
      font: (size) => `${size}px ${style.fontFamily}`,
    };
  }
  describe() {
    const labels = SpecKD.laneLabels(this.figure, this.last.knobs);
    const lanes = `${labels.length} lanes: ${labels.join(", ")}`;
    const about = `Heatmap of ${this.n} tokens in ${lanes}. The strip above gives each token's values.`;
    this.box.setAttribute("aria-label", SpecKD.told(about));
  }

  /* Cursor and pin lie over the heatmap, so that moving them draws nothing again. */
  place() {
    const at = this.frame();
    const put = (node, t) => {
      const visible = at && t >= 0 && t + 0.5 > at.from && t - 0.5 < at.to;
      node.style.display = visible ? "" : "none";
      if (!visible) return;
      node.style.transform = `translate(${at.x(t - 0.5)}px, ${at.t}px)`;
      node.style.width = Math.max(2, at.step) + "px";
      node.style.height = at.h + "px";
    };
    put(this.cursor, this.hovered);
    put(this.pinMark, this.pinned);
  }
  setCursor(t) {
    this.hovered = t;
    this.place();
  }
  setPinned(t) {
    this.pinned = t;
    this.place();
  }

  /* Into another picture, whole, whatever is zoomed here. */
  paintInto(pen, { left, top, width, height, narrow = false }) {
    if (!this.figure || !this.last) return;
    const at = SpecKD.laneFrame(this.figure, { left, top, width, height, narrow });
    SpecKD.paintLanes(pen, at, this.figure, { ...this.view(), narrow, pattern: SpecKD.hatching(pen) });
  }

  repaint() {
    return this.last && (this.plot ? this.draw() : this.sketch());
  }
  get element() {
    return this.box;
  }
  destroy() {
    clearTimeout(this.timer);
    this.observer.disconnect();
    this.theme.disconnect();
    if (this.plot) this.plot.destroy();
  }
}

SpecKD.createLanes = (root, options) => new Lanes(root, options);
