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
  block_efficiency: ["tokens a pass", "ratio"],
  acceptance: ["acceptance", "share"],
  thrown_away: ["thrown away", "count"],
  checks: ["checks", "count"],
};

function heatmaps(plotly, grids) {
  const choice = el("select", { class: "sk-select", "aria-label": tr("Quantity") });
  for (const label of Object.keys(grids)) choice.append(el("option", { value: label, text: tr(label) }));
  const box = el("div", { class: "sk-papers-plot" });
  const plot = SpecKD.createPlot(box, { src: plotly, height: 280 });
  const show = () => plot.show(JSON.parse(grids[choice.value]));
  choice.addEventListener("change", show);
  show();
  return [choice, box];
}

/* A policy as Python writes it; what stands beside some is told. */
function policyName(policy) {
  if (policy === "oracle") return tr("hindsight, the ceiling");
  const replayed = /^(.*) \(replayed\)$/.exec(policy);
  return replayed ? tr("{policy} (replayed)", { policy: replayed[1] }) : policy;
}

function listed({ columns, rows }) {
  const heads = [tr("draft"), tr("policy"), ...columns.map((name) => tr(COLUMNS[name][0]))];
  const cells = rows.map(([draft, policy, ...values]) => [
    draft,
    policyName(policy),
    ...values.map((value, i) => SpecKD.format(value, COLUMNS[columns[i]][1])),
  ]);
  return el("div", { class: "sk-scroll" }, SpecKD.manyColumns("", heads, cells));
}

SpecKD.showPapers = async function (root, { server, plotly, say }) {
  if (root.dataset.filled) return;
  root.dataset.filled = "yes";
  try {
    const told = await server.papers();
    for (const [name, text] of Object.entries(told)) {
      const data = JSON.parse(text);
      const nodes = data.grids ? heatmaps(plotly, data.grids) : [listed(data)];
      const made = el("code", { class: "sk-command", text: data.command });
      const title = el("h3", { class: "sk-section", text: tr(TITLES[name]) });
      root.append(el("section", { class: "sk-paper", "data-paper": name }, title, ...nodes, made));
    }
  } catch {
    delete root.dataset.filled;
    say("failed", SpecKD.NO_ANSWER);
  }
};
