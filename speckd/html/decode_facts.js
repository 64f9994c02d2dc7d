/* What follows from a decoding, as tables: this text, speed and costs on the machine that decoded it, how sure the
   draft was, and what other policies would have done with the same drafts. All numbers come from Python. */

const { el, svg, tr } = SpecKD;
const milliseconds = (seconds) => `${SpecKD.figures(1000 * seconds)} ms`;

const row = (label, value, title = null) =>
  el("tr", {}, el("th", { scope: "row", text: label, title }), el("td", { class: "sk-num", text: value }));
const table = (caption, rows, about = {}) =>
  el(
    "table",
    { class: "sk-figures sk-decode-table", ...about },
    el("caption", { class: "sk-decode-caption", text: caption }),
    el("tbody", {}, ...rows),
  );

function textTable(facts) {
  const f = SpecKD.format;
  const rows = [
    row(tr("tokens, rounds"), `${f(facts.n_tokens, "count")}, ${f(facts.n_rounds, "count")}`),
    row(tr("tokens a pass of the teacher"), f(facts.block_efficiency, "score"), tr("block efficiency")),
  ];
  if (facts.n_drafted) {
    rows.push(
      row(tr("acceptance"), f(facts.acceptance, "share"), tr("accepted tokens over places that were looked at")),
      row(tr("thrown away"), tr("{n} of {all}", { n: facts.thrown_away, all: facts.n_drafted })),
    );
  }
  rows.push(row(tr("tokens a second"), f(facts.tokens_per_second, "score")));
  return table(tr("This text"), rows);
}

function speedTable(facts, recorded) {
  const f = SpecKD.format;
  const { costs } = facts;
  const over = tr("over our plain loop, as many tokens");
  const rows = facts.speedup === null ? [] : [row(tr("speed-up, measured"), f(facts.speedup, "times"), over)];
  if (facts.predicted_speedup !== null) {
    rows.push(row(tr("speed-up, predicted"), f(facts.predicted_speedup, "times"), tr("from measured costs")));
  } else if (facts.floors.length) {
    rows.push(row(tr("speed-up, predicted"), "–", tr("these costs know drafts of one level")));
  }
  if (costs) {
    const even = costs.break_even === null ? tr("nowhere") : f(costs.break_even, "share");
    rows.push(row(tr("a draft of one pays from acceptance"), even));
    if (costs.best_length !== null) {
      const best = { n: costs.best_length, speed: f(costs.best_speedup, "times") };
      const words = costs.best_length ? tr("{n} drafted, {speed}", best) : tr("none: drafting does not pay");
      rows.push(row(tr("best fixed length"), words, tr("predicted from this text’s acceptances")));
    }
    rows.push(
      row(tr("a token of the teacher"), milliseconds(costs.seconds)),
      row(tr("a step of the draft"), tr("{n} of it", { n: f(costs.draft, "score") })),
      ...[2, 5, 9].filter((n) => costs.rows.includes(n)).map((n) =>
        row(tr("verifying {n} rows", { n }), f(costs.verify[costs.rows.indexOf(n)], "times"))
      ),
      row(tr("noise of these costs"), f(costs.spread, "share"), tr("the widest quartile distance of any of them")),
    );
  }
  return table(recorded ? tr("Where this was recorded") : tr("Now on this machine"), rows, { "data-table": "speed" });
}

/* Predicted speed of each fixed length: bars over a line at plain decoding's 1. */
function lengthsChart(facts) {
  const lengths = facts.costs ? facts.costs.lengths : [];
  if (!lengths.length) return null;
  const [wide, high, base] = [28, 74, 88];
  const top = Math.max(1.2, ...lengths.map(([, speed]) => speed));
  const y = (speed) => base - (speed / top) * high;
  const nodes = lengths.flatMap(([g, speed], i) => [
    svg("rect", {
      class: `sk-length${g === facts.costs.best_length ? " sk-length-best" : ""}`,
      x: i * (wide + 8) + 4,
      y: y(speed),
      width: wide,
      height: base - y(speed),
      rx: 2,
    }),
    svg("text", { class: "sk-curve-text", x: i * (wide + 8) + 18, y: 101, "text-anchor": "middle", text: String(g) }),
    svg("text", {
      class: "sk-curve-text",
      x: i * (wide + 8) + 18,
      y: y(speed) - 3,
      "text-anchor": "middle",
      text: SpecKD.figures(speed, 2),
    }),
  ]);
  const width = lengths.length * (wide + 8) + 4;
  const label = tr("Predicted speed by fixed draft length; 1 is plain decoding");
  return el(
    "figure",
    { class: "sk-lengths", tabindex: "0", "aria-label": label },
    svg(
      "svg",
      { viewBox: `0 -10 ${width} 114`, width, height: 114, role: "img", "aria-label": label },
      ...nodes,
      svg("line", { class: "sk-curve-threshold", x1: 0, x2: width, y1: y(1), y2: y(1) }),
    ),
    el("figcaption", { class: "sk-small sk-muted", text: label }),
  );
}

const manyColumns = (caption, heads, rows) =>
  el(
    "table",
    { class: "sk-figures sk-decode-table" },
    el("caption", { class: "sk-decode-caption", text: caption }),
    el(
      "thead",
      {},
      el("tr", {}, ...heads.map((text, i) => el("th", { class: i ? "sk-num" : null, scope: "col", text }))),
    ),
    el(
      "tbody",
      {},
      ...rows.map((cells) =>
        el(
          "tr",
          {},
          el("th", { scope: "row", text: cells[0] }),
          ...cells.slice(1).map((text) => el("td", { class: "sk-num", text })),
        )
      ),
    ),
  );
SpecKD.manyColumns = manyColumns;

class DecodeFacts {
  constructor(root) {
    this.recorded = false;
    this.element = el("section", { class: "sk-decode-facts", "aria-label": tr("Figures") });
    root.append(this.element);
  }
  setDecoding(decoding) {
    const { facts } = decoding;
    this.element.replaceChildren();
    if (!facts) return;
    const f = SpecKD.format;
    this.element.append(this.promise(decoding), textTable(facts));
    if (facts.speedup !== null || facts.costs) this.element.append(speedTable(facts, this.recorded));
    const chart = lengthsChart(facts);
    if (chart) this.element.append(chart);
    if (facts.calibration.length) {
      const rows = facts.calibration.map(([q, passed, n]) => [f(q, "share"), f(passed, "share"), f(n, "count")]);
      const heads = [tr("the draft’s own word"), tr("passed"), tr("tokens")];
      this.element.append(manyColumns(tr("Does the draft know when it is right?"), heads, rows));
    }
    if (facts.replayed.length) {
      const rows = facts.replayed.map(([policy, speed, block, thrown]) => [
        policy === "oracle" ? tr("hindsight, the ceiling") : policy,
        f(speed, "times"),
        f(block, "score"),
        f(thrown, "count"),
      ]);
      const heads = [tr("policy"), tr("speed"), tr("a pass"), tr("thrown")];
      this.element.append(manyColumns(tr("Other policies on this text, replayed"), heads, rows));
    }
  }
  /* What the text is: the teacher's own, or not. */
  promise({ record }) {
    const { lossless, plain_ids: plain, figures, config } = record;
    const words = !lossless
      ? tr("Lossy: not always the teacher’s text.") + (config.lenience < 1 ? ` (${SpecKD.lossyMark(config)})` : "")
      : config.do_sample
      ? tr("Lossless: this text has exactly the teacher’s distribution.")
      : plain === null
      ? tr("Lossless: the teacher’s own text, token for token.")
      : figures.identical
      ? tr("Lossless: plain decoding wrote the same text, token for token.")
      : tr("Plain decoding wrote another text: please report this.");
    const warn = !lossless || figures.identical === false;
    return el("p", { class: `sk-small sk-promise${warn ? " sk-promise-warn" : ""}`, text: words });
  }
}

SpecKD.createDecodeFacts = (root) => new DecodeFacts(root);
