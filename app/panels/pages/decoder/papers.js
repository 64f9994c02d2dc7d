/* The four papers' tables, made anew on the packaged pair: two as heatmaps, two as lists of policies. Fetched when the
   visitor first looks; a table that is not here is not shown. */

const { el, tr } = SpecKD;
const TITLES = {
  distillspec: "DistillSpec: what distilling the draft buys",
  temperature: "Temperature: of training and of decoding",
  policies: "Dynamic Depth Decoding: how far to draft",
  hispec: "HiSpec: one exit against two",
};
const COLUMNS = {
  speedup: ["speed-up", "times"],
  predicted: ["predicted", "times"],
  block_efficiency: ["tokens a pass", "score"],
  acceptance: ["acceptance", "share"],
  stopped_by_middle: ["stopped by the later exit", "share"],
  stopped_by_teacher: ["stopped by the teacher", "share"],
  layers_a_token: ["layers a token", "score"],
  thrown_away: ["thrown away", "count"],
  checks: ["checks", "count"],
};

const NARROW = 420; // pixels: below, a cell has no room for its interval
const shortest = (value) => String(Number(value.toPrecision(3)));
const interval = ({ low, high }) => low === null || high === null ? "" : `${shortest(low)} – ${shortest(high)}`;

/* What a draft was distilled with, as a cell or a caption says it. */
SpecKD.distilledAs = function ({ objective, text, gate, temperature }) {
  if (objective === "before") return tr("the draft before distillation");
  const named = speckdWords.divergences[objective];
  const whose = text === "student" ? tr("on its own text") : tr("on the teacher’s text");
  const told = [tr(named ? named.label : objective), whose, gate === "none" ? tr("plain") : tr("gated")];
  return `${tr("a draft distilled")}: ${told.join(", ")}, ${tr("at temperature {t}", { t: temperature })}`;
};

const linesOf = (texts) => Math.max(...texts.map((text) => text.split("<br>").length));

/* The heatmap with its words: in each cell the value and its interval, and for a pointer what a click does. */
function worded({ figure, cells }, quantity, wide) {
  const drawn = JSON.parse(figure);
  const [heat] = drawn.data;
  const words = (text) => text.split("<br>").map((line) => tr(line)).join("<br>");
  heat.x = heat.x.map((text) => wide ? words(text) : words(text).replaceAll(" ", "<br>"));
  heat.y = heat.y.map((text) => words(text));
  const within = (cell) => {
    if (cell.value === null) return "";
    return wide && interval(cell) ? `${shortest(cell.value)}<br>${interval(cell)}` : shortest(cell.value);
  };
  const heard = (cell) => {
    if (cell.value === null) return "";
    const told = interval(cell) ? `${shortest(cell.value)} (95%: ${interval(cell)})` : shortest(cell.value);
    return `${told}<br>${
      cell.record ? tr("click: its recorded decoding") : tr("no decoding is recorded for this cell")
    }`;
  };
  heat.text = cells.map((row) => row.map(within));
  heat.customdata = cells.map((row) => row.map(heard));
  heat.texttemplate = "%{text}";
  heat.textfont = { size: wide ? 11 : 10, color: SpecKD.INK };
  if (!wide) drawn.layout.margin = { ...drawn.layout.margin, l: 84, b: 18 + 17 * linesOf(heat.x) };
  heat.hovertemplate = `%{y}, %{x}<br>${tr(quantity)}: %{customdata}<extra></extra>`;
  return drawn;
}

/* Cells by name, for the keyboard: what a click does, too. */
function opener(onOpen) {
  const list = el("select", { class: "sk-select", "aria-label": tr("A cell of the grid") });
  const button = el("button", { type: "button", class: "sk-button sk-quiet", text: tr("Open its decoding") });
  button.addEventListener("click", () => list.value && onOpen(list.value));
  const fill = (drawn, cells) => {
    const [{ x, y }] = drawn.data;
    const flat = (text) => text.replaceAll("<br>", " ");
    const chosen = list.value;
    const entries = cells.flatMap((row, i) => row.map((cell, j) => [cell, `${flat(y[i])} · ${flat(x[j])}`]));
    list.replaceChildren(
      ...entries.filter(([cell]) => cell.record).map(([cell, text]) => el("option", { value: cell.record, text })),
    );
    if ([...list.options].some((one) => one.value === chosen)) list.value = chosen;
    line.hidden = !list.options.length;
  };
  const line = el("div", { class: "sk-paper-open" }, list, button);
  return { line, fill };
}

function heatmaps(plotly, grids, onOpen) {
  const choice = el("select", { class: "sk-select", "aria-label": tr("Quantity") });
  for (const label of Object.keys(grids)) choice.append(el("option", { value: label, text: tr(label) }));
  const [{ down, across }] = Object.values(grids);
  const axes = tr("Down: {down}. Across: {across}.", { down: tr(down), across: tr(across) });
  const box = el("div", { class: "sk-papers-plot" });
  const rows = Object.values(grids)[0].cells.length;
  let listening = false;
  const plot = SpecKD.createPlot(box, {
    src: plotly,
    height: 62 + 44 * rows, // until it is drawn
    onDrawn: () => {
      if (listening) return;
      listening = true;
      plot.on("plotly_click", ({ points: [point] }) => {
        const [down, across] = point.pointIndex || point.pointNumber;
        const { record } = grids[choice.value].cells[down][across];
        if (record) onOpen(record);
      });
    },
  });
  const cells = opener(onOpen);
  const show = () => {
    const drawn = worded(grids[choice.value], choice.value, !box.clientWidth || box.clientWidth >= NARROW);
    cells.fill(drawn, grids[choice.value].cells);
    plot.show(drawn, 16 + 44 * rows + drawn.layout.margin.b);
  };
  choice.addEventListener("change", show);
  requestAnimationFrame(show); // when its width is known
  return [choice, el("p", { class: "sk-small sk-muted", text: axes }), box, cells.line];
}

/* A policy as Python writes it; what stands beside some is told. */
function policyName(policy) {
  if (policy === "oracle") return tr("hindsight, the ceiling");
  const replayed = /^(.*) \(replayed\)$/.exec(policy);
  return replayed ? tr("{policy} (replayed)", { policy: replayed[1] }) : policy;
}

/* "1.31× (1.18× – 1.50×)"; a number alone where the table has no interval. */
function withInterval(value, kind) {
  if (!Array.isArray(value)) return value === null ? "–" : SpecKD.format(value, kind);
  const [middle, low, high] = value;
  if (middle === null) return "–";
  return `${SpecKD.format(middle, kind)} (${SpecKD.format(low, kind)} – ${SpecKD.format(high, kind)})`;
}

function listed({ columns, rows }) {
  const heads = [tr("draft"), tr("policy"), ...columns.map((name) => tr(COLUMNS[name][0]))];
  const cells = rows.map(([draft, policy, ...values]) => [
    draft,
    policyName(policy),
    ...values.map((value, i) => withInterval(value, COLUMNS[columns[i]][1])),
  ]);
  return el("div", { class: "sk-scroll" }, SpecKD.manyColumns("", heads, cells));
}

SpecKD.showPapers = async function (root, { server, plotly, say, onOpen }) {
  if (root.dataset.filled) return;
  root.dataset.filled = "yes";
  try {
    const told = await server.papers();
    for (const [name, text] of Object.entries(told)) {
      const data = JSON.parse(text);
      const nodes = data.grids ? heatmaps(plotly, data.grids, onOpen) : [listed(data)];
      const made = el("code", { class: "sk-command", text: data.command });
      const title = el("h3", { class: "sk-section", text: tr(TITLES[name]) });
      root.append(
        el(
          "section",
          { class: data.grids ? "sk-paper" : "sk-paper sk-paper-list", "data-paper": name },
          title,
          ...nodes,
          made,
        ),
      );
    }
  } catch {
    delete root.dataset.filled;
    say("failed", SpecKD.NO_ANSWER);
  }
};
