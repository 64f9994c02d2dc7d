/* A plotly figure that is updated in place. Plotly's script is fetched once, from this server, when the first plot
   wants it. Colours of text and grid follow the page's theme. */
const loading = new Map();

/* Plotly's script keeps the page busy for a good while: what is on screen already gets its moment first. */
const idle = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 10)));

SpecKD.loadPlotly = function (src) {
  if (globalThis.Plotly) return Promise.resolve(globalThis.Plotly);
  if (!loading.has(src)) {
    loading.set(
      src,
      idle().then(() =>
        new Promise((resolve, reject) => {
          const script = document.createElement("script");
          script.src = src;
          script.onload = () => resolve(globalThis.Plotly);
          script.onerror = () => {
            loading.delete(src);
            reject(new Error("The plots' script could not be loaded."));
          };
          document.head.append(script);
        })
      ),
    );
  }
  return loading.get(src);
};

/* A plot in a tab that is not open costs nothing before it is. */
const seen = SpecKD.seen = (node) =>
  new Promise((resolve) => {
    if (node.getClientRects().length) {
      resolve();
      return;
    }
    const watch = new ResizeObserver(() => {
      if (!node.getClientRects().length) return;
      watch.disconnect();
      resolve();
    });
    watch.observe(node);
  });

const inked = (data, color) =>
  data.map((one) => one.textfont?.color === INK ? { ...one, textfont: { ...one.textfont, color } } : one);

const INK = SpecKD.INK = "ink"; // a colour of a trace's text: the theme's own

class Plot {
  constructor(root, { src, height = 260, onDrawn = (_area) => {} }) {
    this.src = src;
    this.onDrawn = onDrawn;
    this.node = SpecKD.el("div", { class: "sk-plot" });
    this.area = SpecKD.el("div", { class: "sk-plot-area" });
    this.note = SpecKD.el("p", { class: "sk-plot-note sk-small sk-muted", text: "Drawing…" });
    this.node.style.height = height + "px";
    this.node.append(this.area, this.note);
    root.append(this.node);
    this.wanted = null;
    this.drawn = false;
    this.busy = Promise.resolve();
    this.appearing = null;
    this.observer = new ResizeObserver(() => {
      if (this.drawn && this.wanted && this.area.clientWidth) {
        Plotly.Plots.resize(this.area).then(() => this.onDrawn(this.area), () => {});
      }
    });
    this.observer.observe(this.node);
    this.theme = new MutationObserver(() => this.wanted && this.drawn && this.show(this.wanted));
    this.theme.observe(document.body, { attributes: true, attributeFilter: ["class"] });
  }

  visible() {
    this.appearing = this.appearing || seen(this.node).finally(() => {
      this.appearing = null;
    });
    return this.appearing;
  }

  themed(figure) {
    const style = getComputedStyle(this.node);
    const ink = style.getPropertyValue("--sk-ink").trim();
    const muted = style.getPropertyValue("--sk-muted").trim();
    const layout = { ...figure.layout, template: undefined, autosize: true, width: undefined, height: undefined };
    layout.font = { ...(layout.font || {}), color: ink };
    layout.hoverlabel = {
      bgcolor: style.getPropertyValue("--sk-surface").trim(),
      bordercolor: style.getPropertyValue("--sk-strong-rule").trim(),
      font: { color: ink },
      align: "left",
    };
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis/.test(name)) {
        layout[name] = {
          gridcolor: style.getPropertyValue("--sk-rule").trim(),
          linecolor: muted,
          tickcolor: muted,
          ...layout[name],
          automargin: false,
        };
      }
    }
    layout.annotations = (layout.annotations || []).map((a) => ({ ...a, font: { ...(a.font || {}), color: muted } }));
    return layout;
  }

  show(figure, nextHeight) {
    if (nextHeight) this.node.style.height = nextHeight + "px";
    this.wanted = figure;
    this.busy = this.visible().then(() => SpecKD.loadPlotly(this.src)).then((Plotly) => {
      if (this.wanted !== figure) return undefined; // a newer one came while the script was loading
      this.note.hidden = true;
      const layout = this.themed(figure);
      return Plotly.react(this.area, inked(figure.data, layout.font.color), layout, {
        displayModeBar: false,
        responsive: false,
        doubleClick: "reset",
        scrollZoom: false,
        staticPlot: false,
      });
    }).then(() => {
      if (this.wanted !== figure) return;
      this.drawn = true;
      this.node.dataset.drawn = String(Number(this.node.dataset.drawn || 0) + 1);
      this.onDrawn(this.area);
    }, (error) => {
      this.note.hidden = false;
      this.note.textContent = SpecKD.told(error.message);
    });
    return this.busy;
  }

  get element() {
    return this.node;
  }

  on(event, listener) {
    const plotted = /** @type {any} */ (this.area); // Plotly gives it listeners once it has drawn
    return plotted.on && plotted.on(event, listener);
  }

  destroy() {
    this.observer.disconnect();
    this.theme.disconnect();
    if (globalThis.Plotly) globalThis.Plotly.purge(this.area);
  }
}

SpecKD.createPlot = (root, options) => new Plot(root, options);
