/* The curves of a training run: loss, ungated divergence and TAR against the same steps. The charts are empty figures
   from Python (app/figures.py) whose points are appended here and handed to Plotly.react. */
const NEAR = 0.09; // two letters nearer than this share of the chart's height would overlap

const { el, format } = SpecKD;
const finite = (x) => (x !== null && x !== undefined && Number.isFinite(x) ? x : null);
const ring = () =>
  SpecKD.svg(
    "svg",
    { viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" },
    SpecKD.svg("circle", { cx: 6, cy: 6, r: 4, class: "sk-race-ring" }),
  );

/* Charts side by side. `figures` are JSON texts by quantity; onStep hears where a visitor clicked. */
class Race {
  /** @param {HTMLElement} root @param {Parameters<SpecKDParts["createRace"]>[1]} options */
  constructor(root, { plotly, figures, height = 150, lessons = {}, onStep = () => {} }) {
    this.plotly = plotly;
    this.height = height;
    this.lessons = lessons;
    this.onStep = onStep;
    /** @type {Run | null} */
    this.run = null;
    this.moment = 0;
    this.upTo = Infinity; // points beyond this step are not there yet: a run that plays
    this.frame = 0;
    this.drawing = Promise.resolve(null); // until Plotly has drawn what was asked for last
    this.legend = el("div", { class: "sk-race-legend" });
    this.row = el("div", { class: "sk-race-charts" });
    root.append(el("div", { class: "sk-race" }, this.legend, this.row));
    this.charts = Object.entries(figures).map(([quantity, text]) => this.makeChart(quantity, text));
    this.theme = new MutationObserver(() => this.drawAll());
    this.theme.observe(document.body, { attributes: true, attributeFilter: ["class"] });
  }

  makeChart(quantity, text) {
    const figure = typeof text === "string" ? JSON.parse(text) : text;
    const { label, unit, held_out: heldOut } = figure.layout.meta;
    const box = el("div", { class: "sk-race-plot", role: "img" });
    const veil = el("div", { class: "sk-race-veil", "aria-hidden": "true" });
    const line = el("div", { class: "sk-race-moment", "aria-hidden": "true" });
    const lesson = this.lessons[quantity];
    const counted = el("span", { class: "sk-muted", text: ` ${unit}` });
    const link = lesson ? SpecKD.lesson(...lesson) : null;
    const { warning } = figure.layout.meta;
    const apart = warning ? el("span", { class: "sk-race-warning", title: warning, text: warning }) : null;
    const head = el("h2", { class: "sk-race-title" }, el("span", { text: label }), apart || counted, link);
    this.row.append(el("section", { class: "sk-race-chart", "data-quantity": quantity }, head, box));
    const { kind } = speckdWords.figures[quantity];
    const chart = { quantity, figure, label, kind, heldOut, box, veil, line, plot: null, listening: false, last: "" };
    chart.plot = SpecKD.createPlot(box, {
      src: this.plotly,
      height: this.height,
      onDrawn: () => {
        this.listen(chart);
        this.place(chart);
      },
    });
    chart.plot.element.append(veil, line);
    return chart;
  }

  listen(chart) {
    if (chart.listening) return;
    chart.listening = true;
    chart.plot.on("plotly_click", (event) => this.onStep(Math.round(event.points[0].x)));
  }

  /* The whole range that is known, so that nothing rescales while a recorded run plays. */
  range({ quantity, heldOut, figure }) {
    const points = this.run.racers.flatMap((racer) => [...racer.rows, ...(heldOut ? racer.heldOut : [])]);
    const known = points.map((point) => finite(point[quantity])).filter((x) => x !== null);
    if (!known.length) return figure.layout.yaxis.range;
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const least = quantity === "tar" ? 0.02 : 0.05 * Math.max(Math.abs(high), 0.01);
    const pad = Math.max((high - low) * 0.1, least);
    const bottom = low - pad;
    return [low >= 0 ? Math.max(0, bottom) - (bottom < 0 ? pad * 0.2 : 0) : bottom, high + pad];
  }

  /* One of the figure's traces with its racer's colour and points: a line, held-out points, or the last letter. */
  filled(trace, { quantity }, colours) {
    const racer = this.run.racers[trace.meta.racer];
    const color = colours[trace.meta.racer];
    const look = { ...trace, x: [], y: [] };
    for (const name of ["line", "marker", "textfont"]) if (trace[name]) look[name] = { ...trace[name], color };
    if (!racer) return look;
    const all = trace.meta.part === "held_out" ? racer.heldOut : racer.rows;
    let points = all.filter((point) => point.step <= this.upTo);
    if (trace.meta.part === "letter") {
      points = points.slice(-1).filter((point) => finite(point[quantity]) !== null);
    }
    look.x = points.map((point) => point.step);
    look.y = points.map((point) => finite(point[quantity]));
    return look;
  }
  /* Two letters that would overlap step aside. */
  partLetters(data, span) {
    const [a, b] = data.filter((look) => look.meta.part === "letter" && look.x.length);
    if (!b || Math.abs(a.y[0] - b.y[0]) >= NEAR * span || Math.abs(a.x[0] - b.x[0]) >= 0.06 * this.run.steps) return;
    const [upper, lower] = a.y[0] >= b.y[0] ? [a, b] : [b, a];
    upper.textposition = "top right";
    lower.textposition = "bottom right";
  }

  draw(chart) {
    const { run } = this;
    const style = getComputedStyle(chart.box);
    const counts = run.racers.map((racer) => [racer.rows.length, chart.heldOut ? racer.heldOut.length : 0]);
    const drawn = `${run.key}/${run.steps}/${this.upTo}/${style.color}/${counts}`;
    if (chart.last === drawn) return this.place(chart);
    chart.last = drawn;
    const colours = ["--sk-student", "--sk-second"].map((name) => style.getPropertyValue(name).trim());
    const [low, high] = this.range(chart);
    const data = chart.figure.data.map((trace) => this.filled(trace, chart, colours));
    this.partLetters(data, high - low);
    const steps = Math.max(1, run.steps);
    const { xaxis, yaxis } = chart.figure.layout;
    const layout = {
      ...chart.figure.layout,
      xaxis: {
        ...xaxis,
        title: { ...xaxis.title, text: SpecKD.told(xaxis.title.text) },
        range: [-0.03 * steps, 1.03 * steps],
      },
      yaxis: { ...yaxis, title: { text: "" }, range: [low, high] }, // the title stands above the chart
    };
    return chart.plot.show({ data, layout });
  }

  drawAll() {
    cancelAnimationFrame(this.frame);
    this.drawing = new Promise((done) => {
      this.frame = requestAnimationFrame(() =>
        done(this.run ? Promise.all(this.charts.map((chart) => this.draw(chart))) : null)
      );
    });
  }

  place(chart) {
    const layout = chart.plot.area._fullLayout;
    if (!this.run || !layout || !layout._size) return;
    const { l, w, t, h } = layout._size;
    const [from, to] = layout.xaxis.range;
    const x = l + ((this.moment - from) / (to - from)) * w;
    const hidden = !this.run.racers.length || !Number.isFinite(x);
    const last = Math.max(0, ...this.run.racers.flatMap((racer) => racer.rows.slice(-1).map((point) => point.step)));
    chart.line.style.display = hidden || this.moment >= last ? "none" : "";
    const drawn = this.upTo >= last; // what is to come is drawn, and pale; or not drawn at all
    chart.veil.style.display = hidden || this.moment >= last || !drawn ? "none" : "";
    for (const node of [chart.line, chart.veil]) {
      node.style.top = t + "px";
      node.style.height = h + "px";
    }
    chart.line.style.transform = `translateX(${x}px)`;
    chart.veil.style.transform = `translateX(${x + 1}px)`;
    chart.veil.style.width = Math.max(0, l + w - x - 1) + "px";
  }

  describe() {
    for (const { quantity, kind, label, box } of this.charts) {
      const parts = this.run.racers.map(({ letter, name, rows }) => {
        const now = SpecKD.lastAt(rows, this.moment);
        if (!now) return `${letter}, ${name}: no step yet`;
        return `${letter}, ${name}: ${format(now[quantity], kind, { unit: true })} at step ${now.step}`;
      });
      box.setAttribute("aria-label", SpecKD.told(`${label} against steps. ${parts.join(". ")}.`));
    }
  }
  showLegend() {
    const names = this.run.racers.map(({ letter, index, name }) =>
      el(
        "span",
        { class: `sk-race-name sk-racer-${letter.toLowerCase()}` },
        SpecKD.racerMark(index),
        el("b", { text: letter }),
        el("bdi", { text: SpecKD.visible(name) }),
      )
    );
    this.legend.replaceChildren(...names, el("span", { class: "sk-race-name sk-muted" }, ring(), speckdWords.rings));
  }

  /* The run has more events, or is another one. */
  show(next, { step = this.moment, until = Infinity } = {}) {
    const other = next !== this.run || (this.run.racers.length && this.legend.childElementCount === 0);
    this.run = next;
    this.moment = step;
    this.upTo = until;
    if (other || this.legend.dataset.racers !== String(this.run.racers.length)) {
      this.legend.dataset.racers = String(this.run.racers.length);
      this.showLegend();
    }
    this.describe();
    this.drawAll();
  }

  setMoment(step, until = Infinity) {
    this.moment = step;
    if (!this.run) return;
    this.describe();
    if (until !== this.upTo) {
      this.upTo = until;
      this.drawAll();
    }
    for (const chart of this.charts) this.place(chart);
  }

  drawn() {
    return this.drawing;
  }

  destroy() {
    this.theme.disconnect();
    cancelAnimationFrame(this.frame);
    this.charts.forEach((chart) => chart.plot.destroy());
  }
}

SpecKD.createRace = (root, options) => new Race(root, options);
