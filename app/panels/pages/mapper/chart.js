/* Small pictures in SVG: lines over steps, points over a number, bars of shares. They take their colours from the
   page's style, and say in a label what is in them. */

const { el, svg } = SpecKD;
const WIDE = 384;
const HIGH = 190;
const EDGE = { left: 46, right: 10, top: 10, bottom: 30 };

/* A few round numbers from low to high. */
SpecKD.ticks = function (low, high, count = 4) {
  const span = high - low || 1;
  const rough = span / count;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * size).find((one) => one >= rough);
  const found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-6; x += step) found.push(Number(x.toPrecision(12)));
  return found;
};

function scaleOf(values, room, withZero = false) {
  const finite = values.filter(Number.isFinite);
  const low = Math.min(...finite, ...(withZero ? [0] : []));
  const high = Math.max(...finite, ...(withZero ? [0] : []));
  const span = high - low || Math.abs(high) || 1;
  const [from, to] = withZero ? [low, high + span * 0.06] : [low - span * 0.06, high + span * 0.06];
  const at = (value) => room[0] + (room[1] - room[0]) * ((value - from) / (to - from || 1));
  return { from, to, at };
}

/* The frame of a chart: axes with their numbers and names. */
/** @returns {SVGElement[]} */
function frame(x, y, { xLabel, yLabel, xText, yText }) {
  const bottom = HIGH - EDGE.bottom;
  /** @type {SVGElement[]} */
  const nodes = [];
  for (const value of SpecKD.ticks(y.from, y.to)) {
    const level = y.at(value);
    nodes.push(svg("line", { class: "sk-chart-grid", x1: EDGE.left, x2: WIDE - EDGE.right, y1: level, y2: level }));
    nodes.push(
      svg("text", { class: "sk-chart-tick", x: EDGE.left - 6, y: level + 4, "text-anchor": "end", text: yText(value) }),
    );
  }
  for (const value of SpecKD.ticks(x.from, x.to, 5)) {
    if (value < x.from || value > x.to) continue;
    const about = { class: "sk-chart-tick", x: x.at(value), y: bottom + 15, "text-anchor": "middle" };
    nodes.push(svg("text", { ...about, text: xText(value) }));
  }
  const middle = (EDGE.left + WIDE - EDGE.right) / 2;
  nodes.push(svg("text", { class: "sk-chart-name", x: middle, y: HIGH - 2, "text-anchor": "middle", text: xLabel }));
  if (yLabel) {
    nodes.push(svg("text", { class: "sk-chart-name", x: EDGE.left, y: 9, text: yLabel }));
  }
  return nodes;
}
const rooms = () => [[EDGE.left, WIDE - EDGE.right], [HIGH - EDGE.bottom, EDGE.top + 8]];
const sheet = (label, nodes) =>
  svg("svg", { class: "sk-chart", viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label }, ...nodes);

/* Lines: `series` are {side, points: [[x, y]...]}; a side's mean is drawn thick over its single lines. */
SpecKD.lineChart = function ({ label, series, means, names }) {
  const points = series.flatMap((one) => one.points);
  const [across, up] = rooms();
  const x = scaleOf(points.map(([at]) => at), across);
  x.from = Math.min(...points.map(([at]) => at));
  const y = scaleOf(points.map(([, value]) => value), up);
  const path = (one) => one.map(([at, value], i) => `${i ? "L" : "M"}${x.at(at)},${y.at(value)}`).join("");
  const nodes = frame(x, y, names);
  for (const { side, points: one } of series) {
    nodes.push(svg("path", { class: `sk-chart-line sk-chart-${side}`, d: path(one) }));
  }
  for (const { side, points: one } of means) {
    nodes.push(svg("path", { class: `sk-chart-line sk-chart-mean sk-chart-${side}`, d: path(one) }));
  }
  return sheet(label, nodes);
};

/* Points: `series` are {side, points: [{x, y, n}]}, as large as what they stand on; `slope` a line through zero. */
SpecKD.pointChart = function ({ label, series, slope, names }) {
  const points = series.flatMap((one) => one.points);
  const [across, up] = rooms();
  const x = scaleOf(points.map((one) => one.x), across);
  const y = scaleOf(points.map((one) => one.y), up, true);
  const nodes = frame(x, y, names);
  const zero = y.at(0);
  nodes.push(svg("line", { class: "sk-chart-zero", x1: EDGE.left, x2: WIDE - EDGE.right, y1: zero, y2: zero }));
  if (slope) {
    const line = { x1: x.at(x.from), x2: x.at(x.to), y1: y.at(slope * x.from), y2: y.at(slope * x.to) };
    nodes.push(svg("line", { class: "sk-chart-form", ...line }));
  }
  const most = Math.max(...points.map((one) => one.n));
  for (const { side, points: ones } of series) {
    for (const one of ones) {
      const size = 3 + 6 * Math.sqrt(one.n / most);
      const [at, level] = [x.at(one.x), y.at(one.y)];
      /** @type {SVGElement} */
      const mark = side === "arm" ? svg("circle", { cx: at, cy: level, r: size }) : svg("path", {
        d: `M${at},${level - size}L${at + size},${level}L${at},${level + size}L${at - size},${level}Z`,
      });
      mark.setAttribute("class", `sk-chart-point sk-chart-${side}`);
      mark.append(svg("title", { text: one.says }));
      nodes.push(mark);
    }
  }
  return sheet(label, nodes);
};

/* A bar of a share with its number; `before` a mark of where it was. */
SpecKD.shareBar = function (name, share, { more = "", before = null } = {}) {
  const bar = el("span", { class: "sk-bar" }, el("i", { style: `width: ${(100 * share).toFixed(1)}%` }));
  if (before !== null) bar.append(el("b", { style: `left: ${(100 * before).toFixed(1)}%` }));
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      el("span", { text: name }),
      more ? el("small", { class: "sk-muted", text: more }) : null,
    ),
    el("td", { class: "sk-bar-cell", "aria-hidden": "true" }, bar),
    el("td", { class: "sk-num", text: SpecKD.percent(share) }),
  );
};
