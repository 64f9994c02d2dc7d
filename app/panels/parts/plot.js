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
const seen = (node) =>
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

SpecKD.createPlot = function (root, { src, height = 260, onDrawn = () => {} }) {
  const node = SpecKD.el("div", { class: "sk-plot" });
  const area = SpecKD.el("div", { class: "sk-plot-area" });
  const note = SpecKD.el("p", { class: "sk-plot-note sk-small sk-muted", text: "Drawing…" });
  node.style.height = height + "px";
  node.append(area, note);
  root.append(node);
  let wanted = null;
  let drawn = false;
  let busy = Promise.resolve();
  let appearing = null;
  const visible = () => (appearing = appearing || seen(node).finally(() => {
    appearing = null;
  }));

  function themed(figure) {
    const style = getComputedStyle(node);
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

  function show(figure, nextHeight) {
    if (nextHeight) node.style.height = nextHeight + "px";
    wanted = figure;
    busy = visible().then(() => SpecKD.loadPlotly(src)).then((Plotly) => {
      if (wanted !== figure) return undefined; // a newer one came while the script was loading
      note.hidden = true;
      return Plotly.react(area, figure.data, themed(figure), {
        displayModeBar: false,
        responsive: false,
        doubleClick: "reset",
        scrollZoom: false,
        staticPlot: false,
      });
    }).then(() => {
      if (wanted !== figure) return;
      drawn = true;
      node.dataset.drawn = String(Number(node.dataset.drawn || 0) + 1);
      onDrawn(area);
    }, (error) => {
      note.hidden = false;
      note.textContent = error.message;
    });
    return busy;
  }

  const observer = new ResizeObserver(() => {
    if (drawn && wanted && area.clientWidth) globalThis.Plotly.Plots.resize(area).then(() => onDrawn(area), () => {});
  });
  observer.observe(node);
  const theme = new MutationObserver(() => wanted && drawn && show(wanted));
  theme.observe(document.body, { attributes: true, attributeFilter: ["class"] });

  return {
    show,
    element: node,
    area,
    on: (event, listener) => area.on && area.on(event, listener),
    toImage: (figure, options) =>
      SpecKD.loadPlotly(src).then((Plotly) => Plotly.toImage({ data: figure.data, layout: themed(figure) }, options)),
    destroy: () => {
      observer.disconnect();
      theme.disconnect();
      if (globalThis.Plotly) globalThis.Plotly.purge(area);
    },
  };
};
