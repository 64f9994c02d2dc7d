/* The heatmap's figure under the present gate. It comes from Python (app/figures.py) with everything that stays; here
   the weights, the chosen divergence and the veil over the masked tokens are swapped in. Painted two ways: at once on a
   canvas of our own, and by Plotly for those who ask to zoom. */

const { number } = SpecKD;
const VEIL = "rgba(128, 134, 144, 0.10)";
const HATCH = "rgba(128, 134, 144, 0.75)";
const GAP = 3; // pixels between two lanes

/* A value of a lane as Python sent it. */
const written = (value) => number(SpecKD.real(value));

/* First and last of each run of masked tokens. */
SpecKD.maskedRuns = function ({ accepted, n }) {
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
};

/* The figure with its colours by larger tops: two students of one text then compare. */
SpecKD.rescaled = function (figure, tops) {
  const { meta } = figure.layout;
  const by = (name) => meta.tops[name] / tops[name];
  const range = (name) => `0 – ${number(tops[name], 2)}`;
  const smaller = (shades, factor) => shades.map((shade) => shade * factor);
  const isEntropy = (name) => name.endsWith("_entropy");
  const divergences = Object.fromEntries(
    Object.entries(meta.divergences).map(([name, one]) => {
      const asIs = one.range.includes("∞") || by(name) >= 1; // an infinite one keeps the strongest colour
      return [name, asIs ? one : { scaled: smaller(one.scaled, by(name)), range: range(name) }];
    }),
  );
  const data = figure.data.map((lane) =>
    isEntropy(lane.name) && by("entropy") < 1 ? { ...lane, z: [smaller(lane.z[0], by("entropy"))] } : lane
  );
  const annotations = figure.layout.annotations.map((one) =>
    isEntropy(one.name) && by("entropy") < 1 ? { ...one, text: range("entropy") } : one
  );
  return { data, layout: { ...figure.layout, annotations, meta: { ...meta, divergences } } };
};

/* Names of the lanes, from top to bottom; the divergence's is that of the one chosen. */
SpecKD.laneLabels = function (figure, knobs) {
  const { lanes } = figure.layout.meta;
  const kind = SpecKD.DIVERGENCES[knobs.divergence];
  const name = kind.label + (kind.unit ? ` (${kind.unit})` : "");
  return figure.layout.yaxis.ticktext.map((text, row) => (lanes[row] === "divergence" ? name : SpecKD.told(text)));
};

/* One lane's shades from 0 to 1, its values as text, and its range in words. */
function laneUnder(figure, row, { gated, knobs }) {
  const { meta, annotations } = figure.layout;
  const key = meta.lanes[row];
  const lane = figure.data.find((one) => one.name === key);
  const range = (annotations.find((one) => one.name === key) || { text: "" }).text;
  if (key === "weight") return { lane, key, shades: gated.weights, value: (t) => number(gated.weights[t]), range };
  if (key === "divergence") {
    const chosen = meta.divergences[knobs.divergence];
    return { lane, key, shades: chosen.scaled, value: (t) => number(gated.divergence[t]), range: chosen.range };
  }
  return { lane, key, shades: lane.z[0], value: (t) => written(lane.customdata[0][t]), range };
}

/* For Plotly. On the page the veil is a canvas's, which lies above the plot: then it is left out here. */
SpecKD.lanesUnder = function (figure, { gated, knobs, narrow }) {
  const { meta, yaxis, margin, annotations } = figure.layout;
  const kind = SpecKD.DIVERGENCES[knobs.divergence];
  const unit = kind.unit ? " " + kind.unit : "";
  const data = figure.data.filter((lane) => lane.name !== "masked").map((lane) => {
    if (lane.name === "weight") {
      const told = Array.from(gated.weights, (weight) => number(weight));
      return { ...lane, z: [Array.from(gated.weights)], customdata: [told] };
    }
    if (lane.name !== "divergence") return { ...lane, customdata: [lane.customdata[0].map(written)] };
    return {
      ...lane,
      z: [meta.divergences[knobs.divergence].scaled],
      customdata: [gated.divergence.map((d) => number(d))],
      hovertemplate: `%{text}<br>${kind.label} %{customdata}${unit}<extra></extra>`,
    };
  });
  const labels = SpecKD.laneLabels(figure, knobs);
  const layout = {
    ...figure.layout,
    dragmode: "zoom",
    margin: { ...margin, ...SpecKD.laneMargins(narrow) },
    yaxis: {
      ...yaxis,
      ticktext: narrow ? labels.map((text) => text.replace(" (nats)", "").replace(" ", "<br>")) : labels,
    },
    annotations: annotations.map((a) => ({
      ...a,
      font: { size: narrow ? 10 : 11 },
      text: a.name === "divergence" ? meta.divergences[knobs.divergence].range : a.text,
    })),
    uirevision: "kept", // a zoom survives the slider
  };
  return { data, layout };
};
SpecKD.laneMargins = (narrow) => ({ l: narrow ? 74 : 138, r: narrow ? 58 : 66 });

/* --- our own painting ------------------------------------------------------------------------------------------- */

const rgba = (text) => text.match(/[\d.]+/g).map(Number);

/* The cells of one lane; `row` counts from the top. */
function paintLane(pen, at, row, { lane, shades }) {
  const [low, high] = lane.colorscale.map(([, colour]) => rgba(colour));
  const tall = at.h / at.rows;
  const top = at.t + row * tall + GAP / 2;
  const [first, end] = [Math.max(0, Math.floor(at.from)), Math.min(shades.length, Math.ceil(at.to + 0.5))];
  for (let t = first; t < end; t++) {
    const shade = Math.max(0, Math.min(1, Number(shades[t])));
    const [left, right] = [at.x(t - 0.5), at.x(t + 0.5)].map((x) => Math.round(x));
    pen.fillStyle = `rgba(${high[0]}, ${high[1]}, ${high[2]}, ${low[3] + (high[3] - low[3]) * shade})`;
    pen.fillRect(left + lane.xgap / 2, top, Math.max(0.5, right - left - lane.xgap), tall - GAP);
  }
}

/* Names on the left, ranges on the right, numbers of the tokens below. */
function paintWords(pen, at, figure, view) {
  const { colour, font, narrow } = view;
  const tall = at.h / at.rows;
  const labels = SpecKD.laneLabels(figure, view.knobs);
  pen.textBaseline = "middle";
  labels.forEach((text, row) => {
    const middle = at.t + (row + 0.5) * tall;
    pen.font = font(12);
    pen.fillStyle = colour("ink");
    pen.textAlign = "right";
    const words = narrow ? text.replace(" (nats)", "").split(/ (.*)/).filter(Boolean) : [text];
    words.forEach((word, i) => pen.fillText(word, at.l - 6, middle + (i - (words.length - 1) / 2) * 14));
    pen.font = font(narrow ? 10 : 11);
    pen.fillStyle = colour("muted");
    pen.textAlign = "left";
    pen.fillText(laneUnder(figure, row, view).range, at.l + at.w + 6, middle);
  });
  const { tickvals, ticktext, title } = figure.layout.xaxis;
  const under = at.t + at.h;
  pen.font = font(12);
  pen.fillStyle = colour("ink");
  pen.textAlign = "center";
  let free = -Infinity; // where the next number may begin
  tickvals.forEach((t, i) => {
    const half = pen.measureText(ticktext[i]).width / 2;
    if (t < at.from || t > at.to || at.x(t) - half < free) return;
    pen.fillText(ticktext[i], at.x(t), under + 10);
    free = at.x(t) + half + 5;
  });
  pen.fillText(SpecKD.told(title.text), at.l + at.w / 2, under + 26);
}

SpecKD.paintVeil = function (pen, at, runs, pattern) {
  for (const fill of [VEIL, pattern]) {
    pen.fillStyle = fill;
    for (const [first, end] of runs) pen.fillRect(at.x(first - 0.5), at.t, (end - first + 1) * at.step, at.h);
  }
};

/* Where things are in a picture of that size. */
SpecKD.laneFrame = function (figure, { width, height, narrow, left = 0, top = 0 }) {
  const { l, r } = SpecKD.laneMargins(narrow);
  const n = figure.data[0].z[0].length;
  const [w, h] = [Math.max(1, width - l - r), Math.max(1, height - 38)];
  const [from, to] = [-0.5, Math.max(n, 1) - 0.5];
  const x = (t) => left + l + (t - from) * (w / (to - from));
  const rows = figure.layout.meta.lanes.length;
  return { l: left + l, w, t: top + 4, h, from, to, rows, step: w / (to - from), x };
};

/* All of it; `only` names the lanes to paint (a slider moves the weights and the veil alone). */
SpecKD.paintLanes = function (pen, at, figure, view, { only = null, words = true } = {}) {
  const { lanes } = figure.layout.meta;
  pen.save();
  pen.beginPath();
  pen.rect(at.l, at.t, at.w, at.h);
  pen.clip();
  lanes.forEach((key, row) => {
    if (only && !only.includes(key)) return;
    if (only) {
      pen.fillStyle = view.colour("surface");
      pen.fillRect(at.l, at.t + row * (at.h / lanes.length), at.w, at.h / lanes.length);
    }
    paintLane(pen, { ...at, rows: lanes.length }, row, laneUnder(figure, row, view));
  });
  SpecKD.paintVeil(pen, at, SpecKD.maskedRuns(view.gated), view.pattern);
  pen.restore();
  if (words) paintWords(pen, { ...at, rows: lanes.length }, figure, view);
};

/* Slanting lines, as a fill. */
SpecKD.hatching = function (pen) {
  const tile = SpecKD.el("canvas", { width: 7, height: 7 });
  const line = tile.getContext("2d");
  line.strokeStyle = HATCH;
  line.lineWidth = 1;
  line.beginPath();
  for (const shift of [-7, 0, 7]) {
    line.moveTo(shift - 1, 8);
    line.lineTo(shift + 8, -1);
  }
  line.stroke();
  return pen.createPattern(tile, "repeat");
};

/* What a token's cell says: its text, the lane's name, value and unit. Python wrote the text for Plotly, as markup. */
SpecKD.laneTip = function (figure, t, row, view) {
  const { lane, value } = laneUnder(figure, row, view);
  const label = SpecKD.laneLabels(figure, view.knobs)[row];
  const [, name, unit] = /^(.*?)(?: \((.*)\))?$/.exec(label);
  const plain = (text) => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
  return [plain(lane.text[0][t]), `${name} ${value(t)}${unit ? " " + unit : ""}`];
};
