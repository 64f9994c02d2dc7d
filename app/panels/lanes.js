/* The heatmap of one text. The figure comes from Python (app/figures.py) with everything that stays; here only the
   weights, the chosen divergence and the veil over the masked tokens are swapped in. */
(function () {
  "use strict";
  const SpecKD = (window.SpecKD = window.SpecKD || {});
  const NARROW = 560;

  SpecKD.createLanes = function (root, { plotly, height = 300, onPin = () => {}, onHover = () => {} }) {
    const { el, number } = SpecKD;
    let figure = null;
    let n = 0;
    let pinned = -1;
    let hovered = -1;
    let last = null; // what was painted: {gated, knobs}
    let listening = false;

    const box = el("div", { class: "sk-lanes", role: "img", tabindex: "-1" });
    root.append(box);
    const plot = SpecKD.createPlot(box, { src: plotly, height, onDrawn: () => { listen(); place(); } });
    const cursor = el("div", { class: "sk-lanes-cursor", "aria-hidden": "true" });
    const pin = el("div", { class: "sk-lanes-pin", "aria-hidden": "true" });
    plot.element.append(cursor, pin);

    function listen() {
      if (listening) return;
      listening = true;
      const token = (event) => { const t = Math.round(event.points[0].x); return t >= 0 && t < n ? t : -1; };
      plot.on("plotly_hover", (event) => onHover(token(event)));
      plot.on("plotly_unhover", () => onHover(-1));
      plot.on("plotly_click", (event) => { const t = token(event); if (t >= 0) onPin(t); });
      plot.on("plotly_relayout", () => place());
    }

    function setFigure(next) {
      figure = next;
      n = figure.data[0].z[0].length;
      last = null;
    }

    /* The picture for one gate: the same figure object would look unchanged to Plotly.react, so what changes is new. */
    function paint(gated, knobs) {
      if (!figure || gated.n !== n) return Promise.resolve();
      last = { gated, knobs };
      const meta = figure.layout.meta;
      const kind = SpecKD.DIVERGENCES[knobs.divergence];
      const unit = kind.unit ? " " + kind.unit : "";
      const data = figure.data.map((lane) => {
        if (lane.name === "weight") return { ...lane, z: [Array.from(gated.weights)], customdata: [Array.from(gated.weights, (w) => number(w))] };
        if (lane.name === "divergence") {
          return { ...lane, z: [meta.divergences[knobs.divergence].scaled], customdata: [gated.divergence.map((d) => number(d))], hovertemplate: `%{text}<br>${kind.label} %{customdata}${unit}<extra></extra>` };
        }
        if (lane.name === "masked") return { ...lane, ...veil(gated.accepted, lane) };
        return lane;
      });
      const narrow = plot.element.clientWidth < NARROW;
      const labels = figure.layout.yaxis.ticktext.map((text, row) => (meta.lanes[row] === "divergence" ? kind.label + (kind.unit ? " (nats)" : "") : text));
      const layout = {
        ...figure.layout,
        dragmode: n > 160 && window.matchMedia("(pointer: fine)").matches ? "zoom" : false,
        margin: { ...figure.layout.margin, l: narrow ? 74 : 138, r: narrow ? 58 : 66 },
        yaxis: { ...figure.layout.yaxis, ticktext: narrow ? labels.map((text) => text.replace(" (nats)", "").replace(" ", "<br>")) : labels },
        annotations: figure.layout.annotations.map((a) => ({ ...a, font: { size: narrow ? 10 : 11 }, text: a.name === "divergence" ? meta.divergences[knobs.divergence].range : a.text })),
        uirevision: "kept", // a zoom survives the slider
      };
      box.setAttribute("aria-label", `Heatmap of ${n} tokens in ${meta.lanes.length} lanes: ${labels.join(", ")}. The strip above gives each token's values.`);
      return plot.show({ data, layout });
    }

    function veil(accepted, lane) {
      const x = [];
      const width = [];
      let first = -1;
      for (let t = 0; t <= n; t++) {
        const masked = t < n && !accepted[t];
        if (masked && first < 0) first = t;
        if (!masked && first >= 0) {
          x.push((first + t - 1) / 2);
          width.push(t - first);
          first = -1;
        }
      }
      return { x, width, y: x.map(() => figure.layout.meta.lanes.length), base: lane.base };
    }

    /* Cursor and pin lie over the plot, so that moving them draws nothing again. */
    function place() {
      const layout = plot.area._fullLayout || null;
      for (const [node, t] of [[cursor, hovered], [pin, pinned]]) {
        const axis = layout && layout.xaxis;
        const range = axis ? axis.range : null;
        const visible = range && t >= 0 && t + 0.5 > range[0] && t - 0.5 < range[1];
        node.style.display = visible ? "" : "none";
        if (!visible) continue;
        const { l, w, t: top, h } = layout._size;
        const step = w / (range[1] - range[0]);
        node.style.transform = `translate(${l + (t - 0.5 - range[0]) * step}px, ${top}px)`;
        node.style.width = Math.max(2, step) + "px";
        node.style.height = h + "px";
      }
    }

    return {
      setFigure, paint,
      setCursor: (t) => { hovered = t; place(); },
      setPinned: (t) => { pinned = t; place(); },
      toImage: (options) => plot.toImage(options),
      repaint: () => last && paint(last.gated, last.knobs),
      element: box,
      destroy: () => plot.destroy(),
    };
  };
})();
