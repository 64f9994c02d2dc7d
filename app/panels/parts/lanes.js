/* The heatmap of one text. The figure comes from Python (app/figures.py) with everything that stays; here only the
   weights, the chosen divergence and the veil over the masked tokens are swapped in.

   Plotly takes tens of milliseconds to draw six lanes anew, too long for every step of a slider. So what a slider moves,
   the weight lane and the veil, is drawn at once on a canvas over the plot, and Plotly hears of it when the hand rests. */
const NARROW = 560;
const REST = 180; // milliseconds without a move until Plotly draws the same

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
  const plot = SpecKD.createPlot(box, {
    src: plotly,
    height,
    onDrawn: () => {
      listen();
      sketch();
      place();
    },
  });
  const sheet = el("canvas", { class: "sk-lanes-sheet", "aria-hidden": "true" });
  const cursor = el("div", { class: "sk-lanes-cursor", "aria-hidden": "true" });
  const pin = el("div", { class: "sk-lanes-pin", "aria-hidden": "true" });
  plot.element.append(sheet, cursor, pin);
  let timer = 0;
  let drawn = null; // the divergence and the figure that Plotly has drawn

  function listen() {
    if (listening) return;
    listening = true;
    const token = (event) => {
      const t = Math.round(event.points[0].x);
      return t >= 0 && t < n ? t : -1;
    };
    plot.on("plotly_hover", (event) => onHover(token(event)));
    plot.on("plotly_unhover", () => onHover(-1));
    plot.on("plotly_click", (event) => {
      const t = token(event);
      if (t >= 0) onPin(t);
    });
    plot.on("plotly_relayout", () => {
      sketch();
      place();
    });
  }

  function setFigure(next) {
    figure = next;
    n = figure.data[0].z[0].length;
    last = null;
  }

  function paint(gated, knobs) {
    if (!figure || gated.n !== n) return;
    last = { gated, knobs };
    clearTimeout(timer);
    if (drawn === null || drawn.figure !== figure || drawn.divergence !== knobs.divergence) draw();
    else {
      sketch();
      timer = setTimeout(draw, REST);
    }
  }
  function draw() {
    drawn = { figure, divergence: last.knobs.divergence };
    return plot.show(current(false));
  }

  /* The figure under the present gate. On the page the veil is the canvas's; in a picture to keep it is Plotly's. */
  function current(veiled) {
    const { gated, knobs } = last;
    const meta = figure.layout.meta;
    const kind = SpecKD.DIVERGENCES[knobs.divergence];
    const unit = kind.unit ? " " + kind.unit : "";
    const data = figure.data.filter((lane) => veiled || lane.name !== "masked").map((lane) => {
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
        const masked = runs();
        return {
          ...lane,
          x: masked.map(([a, b]) => (a + b) / 2),
          width: masked.map(([a, b]) => b - a + 1),
          y: masked.map(() => meta.lanes.length),
        };
      }
      return lane;
    });
    const narrow = !veiled && plot.element.clientWidth < NARROW;
    const labels = figure.layout.yaxis.ticktext.map((
      text,
      row,
    ) => (meta.lanes[row] === "divergence" ? kind.label + (kind.unit ? " (nats)" : "") : text));
    const layout = {
      ...figure.layout,
      dragmode: n > 160 && matchMedia("(pointer: fine)").matches ? "zoom" : false,
      margin: { ...figure.layout.margin, l: narrow ? 74 : 138, r: narrow ? 58 : 66 },
      yaxis: {
        ...figure.layout.yaxis,
        ticktext: narrow ? labels.map((text) => text.replace(" (nats)", "").replace(" ", "<br>")) : labels,
      },
      annotations: figure.layout.annotations.map((a) => ({
        ...a,
        font: { size: narrow ? 10 : 11 },
        text: a.name === "divergence" ? meta.divergences[knobs.divergence].range : a.text,
      })),
      uirevision: "kept", // a zoom survives the slider
    };
    box.setAttribute(
      "aria-label",
      `Heatmap of ${n} tokens in ${meta.lanes.length} lanes: ${
        labels.join(", ")
      }. The strip above gives each token's values.`,
    );
    return { data, layout };
  }

  /* First and last of each run of masked tokens. */
  function runs() {
    const { accepted } = last.gated;
    const found = [];
    let first = -1;
    for (let t = 0; t <= n; t++) {
      const masked = t < n && !accepted[t];
      if (masked && first < 0) first = t;
      if (!masked && first >= 0) {
        found.push([first, t - 1]);
        first = -1;
      }
    }
    return found;
  }

  /* The plot's frame in pixels, and the range of tokens in view. */
  function frame() {
    const layout = plot.area._fullLayout;
    if (!layout || !layout.xaxis || !layout.xaxis.range) return null;
    const { l, w, t, h } = layout._size;
    const [from, to] = layout.xaxis.range;
    return { l, w, t, h, from, to, step: w / (to - from), x: (token) => l + (token - from) * (w / (to - from)) };
  }

  function sketch() {
    const at = frame();
    if (!at || !last || last.gated.n !== n) return;
    const ratio = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: tall } = plot.element;
    if (sheet.width !== Math.round(width * ratio) || sheet.height !== Math.round(tall * ratio)) {
      [sheet.width, sheet.height] = [Math.round(width * ratio), Math.round(tall * ratio)];
      [sheet.style.width, sheet.style.height] = [width + "px", tall + "px"];
    }
    const pen = sheet.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, tall);
    pen.save();
    pen.beginPath();
    pen.rect(at.l, at.t, at.w, at.h);
    pen.clip();
    const row = figure.layout.meta.lanes.indexOf("weight");
    if (row >= 0) sketchWeights(pen, at, row); // a lesson may show a few lanes only
    for (const fill of ["rgba(128, 134, 144, 0.10)", hatching(pen)]) {
      pen.fillStyle = fill;
      for (const [first, end] of runs()) pen.fillRect(at.x(first - 0.5), at.t, (end - first + 1) * at.step, at.h);
    }
    pen.restore();
    box.dataset.painted = String(Number(box.dataset.painted || 0) + 1);
  }
  function sketchWeights(pen, at, row) {
    const lane = figure.data.find((one) => one.name === "weight");
    const [low, high] = lane.colorscale.map(([, colour]) => colour.match(/[\d.]+/g).map(Number));
    const height = at.h / figure.layout.meta.lanes.length;
    const top = at.t + row * height + lane.ygap / 2;
    pen.fillStyle = getComputedStyle(box).getPropertyValue("--sk-surface").trim();
    pen.fillRect(at.l, top - lane.ygap / 2, at.w, height);
    for (let t = Math.max(0, Math.floor(at.from)); t < n && t - 0.5 < at.to; t++) {
      const alpha = low[3] + (high[3] - low[3]) * last.gated.weights[t];
      pen.fillStyle = `rgba(${high[0]}, ${high[1]}, ${high[2]}, ${alpha})`;
      pen.fillRect(at.x(t - 0.5) + lane.xgap / 2, top, at.step - lane.xgap, height - lane.ygap);
    }
  }
  let pattern = null;
  function hatching(pen) {
    if (pattern) return pattern;
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
    pattern = pen.createPattern(tile, "repeat");
    return pattern;
  }

  /* Cursor and pin lie over the plot, so that moving them draws nothing again. */
  function place() {
    const at = frame();
    for (const [node, t] of [[cursor, hovered], [pin, pinned]]) {
      const visible = at && t >= 0 && t + 0.5 > at.from && t - 0.5 < at.to;
      node.style.display = visible ? "" : "none";
      if (!visible) continue;
      node.style.transform = `translate(${at.x(t - 0.5)}px, ${at.t}px)`;
      node.style.width = Math.max(2, at.step) + "px";
      node.style.height = at.h + "px";
    }
  }

  return {
    setFigure,
    paint,
    setCursor: (t) => {
      hovered = t;
      place();
    },
    setPinned: (t) => {
      pinned = t;
      place();
    },
    toImage: (options) => plot.toImage(current(true), options),
    repaint: () => last && draw(),
    element: box,
    destroy: () => {
      clearTimeout(timer);
      plot.destroy();
    },
  };
};
