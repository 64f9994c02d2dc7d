/* The verdict in words and numbers: why a token passed, its draws and coins, its share of the loss, its chances. */

const { el, svg, number, percent, ordinal, shown, format } = SpecKD;
const SHOWN_DRAWS = 16;
const DRAW_HEIGHT = 46;

const quoteOf = (text) => el("bdi", { class: "sk-quote", text });
const masked = (knobs) =>
  knobs.beta === 0 ? "this token is masked" : `this token keeps a weight of ${number(knobs.beta)}`;

/* --- Spec-k: the draws in a row, each a bar with its coin as a tick ---------------------------------------------- */

function kindOfDraw(j, first, k) {
  if (j === first && first <= k) return "sk-first";
  return j > k || j > first ? "sk-beyond" : "sk-failed";
}
function oneDraw(trace, t, j, { step, kind }) {
  const { ids, acceptance, coin: coins } = trace.draws;
  const a = acceptance[t][j];
  const coin = coins[t][j];
  const x = j * step + 2;
  const width = step - 4;
  const high = a * DRAW_HEIGHT;
  const coinY = 1 + DRAW_HEIGHT - coin * DRAW_HEIGHT;
  const drawn = `draw ${j + 1}: ${shown(SpecKD.tokenText(trace, ids[t][j]))}`;
  const told = `min(1, p/q) = ${number(a)}, coin ${number(coin)}: ${coin < a ? "passes" : "fails"}`;
  const mark = kind === "sk-first" ? "✓" : String(j + 1);
  return svg(
    "g",
    { class: `sk-draw ${kind}` },
    svg("title", { text: SpecKD.told(`${drawn}\n${told}`) }),
    svg("rect", { class: "sk-slot", x, y: 1, width, height: DRAW_HEIGHT }),
    svg("rect", { class: "sk-fill", x, y: 1 + DRAW_HEIGHT - high, width, height: Math.max(0.5, high) }),
    svg("line", { class: "sk-coin", x1: x - 1, x2: x + width + 1, y1: coinY, y2: coinY }),
    svg("text", { x: x + width / 2, y: DRAW_HEIGHT + 13, "text-anchor": "middle", text: mark }),
  );
}
function drawRow(trace, t, k, width) {
  const count = Math.min(SHOWN_DRAWS, trace.draws.ids[t].length);
  const row = svg("svg", {
    class: "sk-draws",
    viewBox: `0 0 ${width} ${DRAW_HEIGHT + 16}`,
    height: DRAW_HEIGHT + 16,
    role: "img",
    "aria-label": `The student's first ${count} draws`,
  });
  for (let j = 0; j < count; j++) {
    const kind = kindOfDraw(j + 1, trace.speck_threshold[t], k);
    row.append(oneDraw(trace, t, j, { step: width / SHOWN_DRAWS, kind }));
  }
  return row;
}
function drawSentence(trace, t, knobs, accepted) {
  const above = knobs.k === 1
    ? "The coin of the one draw falls above its bar min(1, p/q): "
    : `All ${knobs.k} coins fall above their bars min(1, p/q): `;
  if (!accepted) return el("p", {}, above, masked(knobs) + ".");
  const first = trace.speck_threshold[t];
  const { ids, acceptance, coin } = trace.draws;
  if (first > ids[t].length) return el("p", {}, `Draw ${first} is the first whose coin lies under its bar.`);
  const lies = `lies under its bar ${number(acceptance[t][first - 1])}.`;
  const quote = quoteOf(shown(SpecKD.tokenText(trace, ids[t][first - 1])));
  return el("p", {}, `Draw ${first}, `, quote, `: coin ${number(coin[t][first - 1])} ${lies}`);
}

/* Why the token passed or did not, under the gate. */
SpecKD.reasonNodes = function (trace, t, knobs, { accepted, width }) {
  const quote = quoteOf(shown(SpecKD.tokenText(trace, trace.proposal_ids[t])));
  if (knobs.gate === "speck") return [drawRow(trace, t, knobs.k, width), drawSentence(trace, t, knobs, accepted)];
  if (knobs.gate === "topk") {
    const places = knobs.k === 1 ? "the teacher's first choice" : `among the teacher's ${knobs.k} likeliest`;
    const fate = accepted ? "this token counts in full" : masked(knobs);
    const rank = `It is the teacher's ${ordinal(trace.topk_threshold[t])}, so ${fate}.`;
    return [el("p", {}, "Top-k asks: is the student's proposal ", quote, ` ${places}? ${rank}`)];
  }
  const open = "With all open every token counts in full, whatever the teacher thinks of ";
  return [el("p", {}, open, quote, ": plain distillation.")];
};

/* weight x divergence = share of the loss. */
SpecKD.sumNodes = function (gated, t, knobs) {
  const { label, kind } = SpecKD.DIVERGENCES[knobs.divergence];
  const own = gated.shares[t];
  const total = gated.gated * gated.n;
  const plainTotal = gated.plain * gated.n;
  const written = (x) => format(x, kind, { unit: true });
  const known = (x) => x > 0 && isFinite(x);
  const term = (value, under, extra = "") =>
    el("span", { class: "sk-term" + extra }, el("b", { text: value }), el("small", { text: under }));
  const sign = (text) => el("span", { class: "sk-op", text });
  return [
    term(number(gated.weights[t]), "weight"),
    sign("×"),
    term(written(gated.divergence[t]), label),
    sign("="),
    term(written(own), known(total) ? `${percent(own / total)} of the loss` : "of the loss", " sk-result"),
    term(known(plainTotal) ? percent(gated.divergence[t] / plainTotal) : "–", "if not gated", " sk-aside"),
  ];
};

/* What each model thinks of the proposal and of the text's own token, and how unsure it is. */
SpecKD.factNodes = function (trace, t, short) {
  const at = (p, rank) => `${percent(p)}, ${ordinal(rank)}`;
  const nats = (x) => format(x, "nats", { unit: true });
  const line = (name, quoted, student, teacher) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, name, quoted === null ? "" : quoteOf(short(quoted, 90))),
      el("td", { class: "sk-student-text", text: student }),
      el("td", { class: "sk-teacher-text", text: teacher }),
    );
  const head = (who) => el("th", { scope: "col", class: `sk-${who}-text`, text: who });
  return [
    el("thead", {}, el("tr", {}, el("td", {}), head("student"), head("teacher"))),
    el(
      "tbody",
      {},
      line(
        "proposal ",
        SpecKD.tokenText(trace, trace.proposal_ids[t]),
        at(trace.proposal_student_prob[t], 1),
        at(trace.proposal_teacher_prob[t], trace.topk_threshold[t]),
      ),
      line(
        "in the text ",
        trace.tokens[t],
        at(trace.token_student_prob[t], trace.token_student_rank[t]),
        at(trace.token_teacher_prob[t], trace.token_teacher_rank[t]),
      ),
      line("entropy", null, nats(trace.student_entropy[t]), nats(trace.teacher_entropy[t])),
    ),
  ];
};

/* Three acceptance probabilities that are easily taken for one another, each under its own name. */
SpecKD.chanceNodes = function (trace, t, k) {
  const chance = (name, formula, p) => [
    el("dt", {}, name, " ", el("span", { class: "sk-muted" }, ...formula)),
    el("dd", { text: format(p, "probability") }),
  ];
  const power = k === 1 ? ["1 − TVD"] : ["1 − TVD", el("sup", { text: String(k) })];
  return [
    ...chance("one random draw passes", ["1 − TVD"], SpecKD.acceptanceOfOneDraw(trace, t)),
    ...chance(`at least one of ${k} passes`, power, SpecKD.acceptanceOfAnyDraw(trace, t, k)),
    ...chance("the proposal passes", ["min(1, p/q)"], trace.proposal_acceptance[t]),
  ];
};
