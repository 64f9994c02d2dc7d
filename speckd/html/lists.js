/* The two lists of a verdict as SVG: the student's likeliest tokens on the left, the teacher's on the right, lines
   between the same tokens, and the student's proposal running across to where it ends. */

const { svg, percent, ordinal, shown } = SpecKD;
const ROW = 21; // pixels, the least; where there is room a row is higher, and its text larger
const MOST_ROW = 54;
const ROOMY = 25;
const VAST = 42;
const TOP = 26; // for the heads
const FOOT = 34; // for a proposal off the list
const SIDE = 46; // of a column: its numbers, which no bar covers
const ROOMY_SIDE = 56;
const VAST_SIDE = 70;
const NARROW = 130; // of a column: its head may need the room between the columns, and more

const curve = (x0, y0, x1, y1) => `M${x0},${y0} C${(x0 + x1) / 2},${y0} ${(x0 + x1) / 2},${y1} ${x1},${y1}`;

/* Where things are. `left` is where the student's column ends, `right` where the teacher's begins. */
function shapeOf(width, n) {
  const gap = Math.round(Math.min(96, width * 0.2));
  const left = (width - gap) / 2;
  const high = Math.round(Math.max(ROW, Math.min(MOST_ROW, width / 21)));
  const y = (row) => TOP + row * high + high / 2;
  const roomy = high >= ROOMY;
  const vast = high >= VAST;
  const side = vast ? VAST_SIDE : roomy ? ROOMY_SIDE : SIDE;
  const height = TOP + n * high + FOOT;
  return {
    width,
    n,
    left,
    right: left + gap,
    top: TOP,
    y,
    offRow: n + 0.35,
    row: high,
    roomy,
    vast,
    side,
    base: vast ? 6 : 4.5,
    height,
  };
}

SpecKD.roomOfLists = (width) => shapeOf(width, 0);

/* Texts that stand twice in a list: they differ by a leading space alone. */
function twinsIn(trace, ids) {
  const seen = ids.map((one) => shown(SpecKD.tokenText(trace, one)));
  return new Set(seen.filter((text, at) => seen.indexOf(text) !== at));
}

/* One row of a list; `at` is its place from 0. */
function listRow({ trace, shape, who, id, p, at, other, strong, live, bar, label }) {
  const { left, right, width, y, row: high } = shape;
  const isStudent = who === "student";
  const edge = isStudent ? left : right;
  const anchor = isStudent ? "end" : "start";
  const inward = (pixels) => (isStudent ? edge - pixels : edge + pixels);
  const spoken = `${who} ${ordinal(at + 1)}: ${SpecKD.spoken(SpecKD.tokenText(trace, id))}, ${percent(p)}; ${other}`;
  const base = y(at) + shape.base;
  return svg(
    "g",
    {
      class: `sk-row sk-${who}${strong ? " sk-proposal" : ""}${live ? " sk-live" : ""}`,
      role: live ? "button" : "img",
      tabindex: live ? "-1" : null,
      "data-id": id,
    },
    // its name, and what hovering tells
    svg("title", { text: SpecKD.told(spoken + (live ? ". Continue from here" : "")) }),
    svg("rect", {
      class: "sk-hit",
      x: isStudent ? 0 : right,
      y: y(at) - high / 2 + 1,
      width: left,
      height: high - 2,
      rx: 3,
    }),
    svg("rect", {
      class: "sk-bar",
      x: isStudent ? edge - bar : edge,
      y: y(at) - high / 2 + 2,
      width: bar,
      height: high - 4,
      rx: 2,
    }),
    svg("text", { class: "sk-word", x: inward(shape.vast ? 29 : 24), y: base, "text-anchor": anchor, text: label }),
    svg("text", { class: "sk-rank", x: inward(6), y: base, "text-anchor": anchor, text: String(at + 1) }),
    svg("text", {
      class: "sk-prob",
      x: isStudent ? 2 : width - 2,
      y: base,
      "text-anchor": isStudent ? "start" : "end",
      text: percent(p),
    }),
  );
}

/* A place in the other list, where it is known. */
const placed = (rank) => (rank === null ? "" : `, ${ordinal(rank)}`);

function listOf(who, { trace, t, shape, live, widest, short }) {
  const top = who === "student" ? trace.student_top : trace.teacher_top;
  const otherOne = who === "student" ? "teacher" : "student";
  const twins = twinsIn(trace, top.ids[t]);
  return top.ids[t].map((id, at) => {
    const p = top.prob[t][at];
    return listRow({
      trace,
      shape,
      who,
      id,
      p,
      at,
      other: `${otherOne}: ${percent(top.other_prob[t][at])}${placed(top.other_rank[t][at])}`,
      strong: id === trace.proposal_ids[t],
      live,
      bar: Math.max(1.5, (p / widest) * (shape.left - shape.side)),
      label: short(SpecKD.tokenText(trace, id), shape.left - 66, twins),
    });
  });
}

/* Thin lines between tokens that stand in both lists, but for the proposal: its line is the strong one. */
function linksOf(trace, t, { left, right, y }) {
  const links = svg("g", { class: "sk-lines" });
  trace.student_top.ids[t].forEach((id, i) => {
    const j = trace.teacher_top.ids[t].indexOf(id);
    if (j < 0 || id === trace.proposal_ids[t]) return;
    links.append(svg("path", { d: curve(left + 3, y(i), right - 3, y(j)) }));
  });
  return links;
}

/* The proposal below the teacher's list, with its rank written. */
function offTheList(trace, t, { left, right, width, y, offRow, vast, base: below }, short) {
  const rank = trace.beyond ? `>${trace.beyond}` : ordinal(trace.topk_threshold[t]);
  const base = y(offRow) + below;
  const wide = (vast ? 8.6 : 7.4) * rank.length; // of the rank's digits, about
  const text = short(SpecKD.tokenText(trace, trace.proposal_ids[t]), left - 68 - wide);
  const p = percent(trace.proposal_teacher_prob[t]);
  return [
    svg("text", { class: "sk-rank", x: right + 6, y: base, text: rank }),
    svg("text", { class: "sk-word sk-off", x: right + 18 + wide, y: base, text }),
    svg("text", { class: "sk-prob", x: width - 2, y: base, "text-anchor": "end", text: p }),
  ];
}

/* Everything of token t; what moves with the gate is given back by name. A trace of a decoding's round has shorter
   lists, `beyond` where the proposal is off the teacher's, and a proposal that was drawn, so not always the first. */
SpecKD.drawLists = function (trace, t, { width, live, short, heads = ["student proposes", "teacher would say"] }) {
  const n = Math.max(trace.student_top.ids[t].length, trace.teacher_top.ids[t].length);
  const shape = shapeOf(width, n);
  const { left, right, y } = shape;
  const rank = trace.topk_threshold[t];
  const begin = trace.student_top.ids[t].indexOf(trace.proposal_ids[t]);
  const onList = rank <= n;
  const end = onList ? rank - 1 : shape.offRow;
  const widest = Math.max(trace.student_top.prob[t][0] || 0, trace.teacher_top.prob[t][0], 1e-9);
  const given = { trace, t, shape, live, widest, short };
  const rows = [...listOf("student", given), ...listOf("teacher", given)];
  const head = (who, x, anchor, text) =>
    svg("text", { class: `sk-head sk-${who}-text`, x, y: 14, "text-anchor": anchor, text: SpecKD.told(text) });
  const zone = svg("rect", { class: "sk-zone", x: right, y: TOP, width: left, height: n * shape.row });
  const strong = svg("path", {
    class: "sk-strong",
    d: curve(left + 3, y(begin < 0 ? shape.offRow : begin), right - 3, y(end)),
  });
  const badge = svg(
    "g",
    { class: "sk-badge", transform: `translate(${right - 14}, ${y(end)})` },
    svg("circle", { r: 8.5 }),
    svg("path", { class: "sk-check", d: "M-4,0.5 L-1.2,3.3 L4.2,-3" }),
    svg("path", { class: "sk-cross", d: "M-3.2,-3.2 L3.2,3.2 M3.2,-3.2 L-3.2,3.2" }),
  );
  const boundary = svg(
    "g",
    { class: "sk-boundary" },
    svg("line", { x1: right - 30, x2: width, y1: 0, y2: 0 }),
    svg("text", { x: right - 34, y: 4, "text-anchor": "end" }),
  );
  const nodes = [
    left < NARROW ? head("student", 0, null, heads[0]) : head("student", left - 4, "end", heads[0]),
    left < NARROW ? head("teacher", width, "end", heads[1]) : head("teacher", right + 4, null, heads[1]),
    zone,
    linksOf(trace, t, shape),
    ...rows,
    ...(onList ? [] : offTheList(trace, t, shape, short)),
    strong,
    boundary,
    badge,
  ];
  return { nodes, rows, shape, zone, boundary, strong, badge, onList, rank };
};
