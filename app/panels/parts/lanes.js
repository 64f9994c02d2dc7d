/* The heatmap of one text. The figure comes from Python (app/figures.py) with everything that stays; here only the
   weights, the chosen divergence and the veil over the masked tokens are swapped in.

   Plotly takes tens of milliseconds to draw six lanes anew, too long for every step of a slider. So what a slider
   moves, the weight lane and the veil, is drawn at once on a canvas over the plot, and Plotly hears of it when the hand
   rests. */
const NARROW = 560;
const REST = 180; // milliseconds without a move until Plotly draws the same

const { el, number } = SpecKD;

class Lanes {
  constructor(root, { plotly, height = 300, onPin = (_t) => {}, onHover = (_t) => {} }) {
    this.onPin = onPin;
    this.onHover = onHover;
    this.figure = null;
    this.n = 0;
    this.pinned = -1;
    this.hovered = -1;
    this.last = null; // what was painted: {gated, knobs}
    this.listening = false;
    this.box = el("div", { class: "sk-lanes", role: "img", tabindex: "-1" });
    root.append(this.box);
    this.plot = SpecKD.createPlot(this.box, {
      src: plotly,
      height,
      onDrawn: () => {
        this.listen();
        this.sketch();
        this.place();
      },
    });
    this.sheet = el("canvas", { class: "sk-lanes-sheet", "aria-hidden": "true" });
    this.cursor = el("div", { class: "sk-lanes-cursor", "aria-hidden": "true" });
    this.pinMark = el("div", { class: "sk-lanes-pin", "aria-hidden": "true" });
    this.plot.element.append(this.sheet, this.cursor, this.pinMark);
    this.timer = 0;
    this.drawn = null; // the divergence and the figure that Plotly has drawn
    this.pattern = null;
  }

  listen() {
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

  setFigure(next) {
    this.figure = next;
    this.n = this.figure.data[0].z[0].length;
    this.last = null;
  }

  paint(gated, knobs) {
    if (!this.figure || gated.n !== this.n) return;
    this.last = { gated, knobs };
    clearTimeout(this.timer);
    if (this.drawn === null || this.drawn.figure !== this.figure || this.drawn.divergence !== knobs.divergence) {
      this.draw();
    } else {
      this.sketch();
      this.timer = setTimeout(() => this.draw(), REST);
    }
  }

  draw() {
    this.drawn = { figure: this.figure, divergence: this.last.knobs.divergence };
    return this.plot.show(this.current(false));
  }

  /* The figure under the present gate. On the page the veil is the canvas's; in a picture to keep it is Plotly's. */
  current(veiled) {
    const { gated, knobs } = this.last;
    const meta = this.figure.layout.meta;
    const kind = SpecKD.DIVERGENCES[knobs.divergence];
    const unit = kind.unit ? " " + kind.unit : "";
    const data = this.figure.data.filter((lane) => veiled || lane.name !== "masked").map((lane) => {
      if (lane.name === "weight") {
        return {
          ...lane,
          z: [Array.from(gated.weights)],
          customdata: [Array.from(gated.weights, (w) => number(w))],
        };
      }
      if (lane.name === "divergence") {
        return {
          ...lane,
          z: [meta.divergences[knobs.divergence].scaled],
          customdata: [gated.divergence.map((d) => number(d))],
          hovertemplate: `%{text}<br>${kind.label} %{customdata}${unit}<extra></extra>`,
        };
      }
      if (lane.name === "masked") {
        const masked = this.runs();
        return {
          ...lane,
          x: masked.map(([a, b]) => (a + b) / 2),
          width: masked.map(([a, b]) => b - a + 1),
          y: masked.map(() => meta.lanes.length),
        };
      }
      return lane;
    });
    const narrow = !veiled && this.plot.element.clientWidth < NARROW;
    const labels = this.figure.layout.yaxis.ticktext.map((
      text,
      row,
    ) => (meta.lanes[row] === "divergence" ? kind.label + (kind.unit ? " (nats)" : "") : text));
    const layout = {
      ...this.figure.layout,
      dragmode: this.n > 160 && matchMedia("(pointer: fine)").matches ? "zoom" : false,
      margin: { ...this.figure.layout.margin, l: narrow ? 74 : 138, r: narrow ? 58 : 66 },
      yaxis: {
        ...this.figure.layout.yaxis,
        ticktext: narrow ? labels.map((text) => text.replace(" (nats)", "").replace(" ", "<br>")) : labels,
      },
      annotations: this.figure.layout.annotations.map((a) => ({
        ...a,
        font: { size: narrow ? 10 : 11 },
        text: a.name === "divergence" ? meta.divergences[knobs.divergence].range : a.text,
      })),
      uirevision: "kept", // a zoom survives the slider
    };
    this.box.setAttribute(
      "aria-label",
      `Heatmap of ${this.n} tokens in ${meta.lanes.length} lanes: ${
        labels.join(", ")
      }. The strip above gives each token's values.`,
    );
    return { data, layout };
  }

  /* First and last of each run of masked tokens. */
  runs() {
    const { accepted } = this.last.gated;
    const found = [];
    let first = -1;
    for (let t = 0; t <= this.n; t++) {
      const masked = t < this.n && !accepted[t];
      if (masked && first < 0) first = t;
      if (!masked && first >= 0) {
        found.push([first, t - 1]);
        first = -1;
      }
    }
    return found;
  }

  /* The plot's frame in pixels, and the range of tokens in view. */
  frame() {
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
    const { clientWidth: width, clientHeight: tall } = this.plot.element;
    if (this.sheet.width !== Math.round(width * ratio) || this.sheet.height !== Math.round(tall * ratio)) {
      [this.sheet.width, this.sheet.height] = [Math.round(width * ratio), Math.round(tall * ratio)];
      [this.sheet.style.width, this.sheet.style.height] = [width + "px", tall + "px"];
    }
    const pen = this.sheet.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, tall);
    pen.save();
    pen.beginPath();
    pen.rect(at.l, at.t, at.w, at.h);
    pen.clip();
    const row = this.figure.layout.meta.lanes.indexOf("weight");
    if (row >= 0) this.sketchWeights(pen, at, row); // a lesson may show a few lanes only
    for (const fill of ["rgba(128, 134, 144, 0.10)", this.hatching(pen)]) {
      pen.fillStyle = fill;
      for (const [first, end] of this.runs()) pen.fillRect(at.x(first - 0.5), at.t, (end - first + 1) * at.step, at.h);
    }
    pen.restore();
    this.box.dataset.painted = String(Number(this.box.dataset.painted || 0) + 1);
  }

  sketchWeights(pen, at, row) {
    const lane = this.figure.data.find((one) => one.name === "weight");
    const [low, high] = lane.colorscale.map(([, colour]) => colour.match(/[\d.]+/g).map(Number));
    const height = at.h / this.figure.layout.meta.lanes.length;
    const top = at.t + row * height + lane.ygap / 2;
    pen.fillStyle = getComputedStyle(this.box).getPropertyValue("--sk-surface").trim();
    pen.fillRect(at.l, top - lane.ygap / 2, at.w, height);
    for (let t = Math.max(0, Math.floor(at.from)); t < this.n && t - 0.5 < at.to; t++) {
      const alpha = low[3] + (high[3] - low[3]) * this.last.gated.weights[t];
      pen.fillStyle = `rgba(${high[0]}, ${high[1]}, ${high[2]}, ${alpha})`;
      pen.fillRect(at.x(t - 0.5) + lane.xgap / 2, top, at.step - lane.xgap, height - lane.ygap);
    }
  }

  hatching(pen) {
    if (this.pattern) return this.pattern;
    const tile = el("canvas", { width: 7, height: 7 });
    const line = tile.getContext("2d");
    line.strokeStyle = "rgba(128, 134, 144, 0.75)";
    line.lineWidth = 1;
    line.beginPath();
    for (const shift of [-7, 0, 7]) {
      line.moveTo(shift - 1, 8);
      line.lineTo(shift + 8, -1);
    }
    line.stroke();
    this.pattern = pen.createPattern(tile, "repeat");
    return this.pattern;
  }

  /* Cursor and pin lie over the plot, so that moving them draws nothing again. */
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

  toImage(options) {
    return this.plot.toImage(this.current(true), options);
  }

  repaint() {
    return this.last && this.draw();
  }

  get element() {
    return this.box;
  }

  destroy() {
    clearTimeout(this.timer);
    this.plot.destroy();
  }
}

SpecKD.createLanes = (root, options) => new Lanes(root, options);
