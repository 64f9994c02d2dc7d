/* What stands below the map: the written questions, what the gate masks, and Theorem 1 as it was measured. */

const { el, tr } = SpecKD;
const TOPK = "topk:k=5:beta=0.01";
const PLAIN = "none";

const card = (title, ...nodes) =>
  el("section", { class: "sk-map-card", "aria-label": title }, el("h2", { text: title }), ...nodes);

/* --- the questions that were written down before the runs ------------------------------------------------------- */

/* A question in words: its figure, both arms, where, and what would have counted as yes. */
function asked(one) {
  const { better } = speckdWords.study.figures[one.figure];
  const said = {
    figure: SpecKD.figureName(one.figure),
    arm: SpecKD.armName(one.arm),
    against: SpecKD.armName(one.against),
    part: one.part,
    less: one.less || "",
    also: one.also ? SpecKD.figureName(one.also) : "",
    below: one.also ? SpecKD.figureChange(one.also, one.below, { unit: true }).replace(/^\+/, "") : "",
  };
  if (one.answer === "floor") return tr("The noise floor: {arm} against {against}, {figure} ({part})", said);
  if (one.less) return tr("{figure}: does {arm} change it more in {part} than in {less}?", said);
  if (one.also) {
    return tr("{figure}: higher with {arm} than with {against}, and {also} within {below} ({part})?", said);
  }
  if (better === "higher") return tr("{figure}: higher with {arm} than with {against} ({part})?", said);
  return tr("{figure}: lower with {arm} than with {against} ({part})?", said);
}
function answered(one) {
  const change = SpecKD.figureChange(one.figure, one.visible, { unit: true }).replace(/^\+/, "");
  return {
    yes: () => tr("yes"),
    no: () => tr("no: the other way round"),
    half: () => tr("only half: {also} is not held", { also: SpecKD.figureName(one.also) }),
    none: () => tr("no difference seen (would have seen {visible} with 80% power)", { visible: change }),
    few: () => tr("too few seeds ({n})", { n: one.n }),
    floor: () => tr("noise"),
  }[one.answer]();
}

/* --- the cards ---------------------------------------------------------------------------------------------------- */

class Beside {
  constructor({ onOpen }) {
    this.onOpen = onOpen;
    this.first = el("div", { class: "sk-map-first" }); // the questions: they stand right below the map
    this.element = el("div", { class: "sk-map-beside" });
    this.student = "";
  }
  show({ questions, growth, masks, planned, done }) {
    this.data = masks;
    this.student = Object.keys(masks)[0] || "";
    this.masksBox = el("div", {});
    const nodes = [];
    if (questions.length) this.first.replaceChildren(this.questions(questions, planned, done));
    if (this.student) nodes.push(card(tr("What the gate masks"), this.masksBox));
    if (growth.plain.length || growth.gated.length) nodes.push(this.growth(growth));
    this.element.replaceChildren(...nodes);
    if (this.student) this.masks();
  }

  questions(all, planned, done) {
    const heads = [tr("question"), tr("difference"), tr("95% interval"), tr("seeds"), tr("p, Holm"), tr("answer")];
    const head = el(
      "tr",
      {},
      ...heads.map((text, i) => el("th", { scope: "col", class: i % 5 ? "sk-num" : "", text })),
    );
    const body = el("tbody", {});
    all.forEach((one, i) => body.append(...this.question(one, i)));
    const table = el("table", { class: "sk-figures sk-map-questions" }, el("thead", {}, head), body);
    const title = tr("The written questions");
    const about = { class: "sk-scroll", tabindex: "0", role: "group", "aria-label": tr("Table") };
    const words = tr(
      "Written down before the runs, each answered from paired seeds with Holm’s correction over all of them.",
    );
    const state = tr("{done} of {planned} planned runs are done.", { done, planned });
    const more = el("p", { class: "sk-small sk-muted" }, `${words} ${state}`, SpecKD.lesson("when-not", title));
    return card(title, more, el("div", about, table));
  }
  question(one, i) {
    const number = one.answer === "floor" ? "" : `${i + 1}. `;
    const change = (figure, x) => SpecKD.figureChange(figure, x, { unit: true });
    const control = one.against;
    const open = el("button", { type: "button", class: "sk-link sk-map-ask", text: number + asked(one) });
    open.addEventListener("click", () => this.onOpen({ figure: one.figure, control, part: one.part, gate: one.arm }));
    const cells = (figure, found) => [
      el("td", { class: "sk-num", text: change(figure, found.mean) }),
      el("td", { class: "sk-num", text: SpecKD.intervalWords(figure, found) }),
      el("td", { class: "sk-num", text: String(found.n) }),
    ];
    const p = one.adjusted === undefined ? "" : SpecKD.figures(one.adjusted, 2);
    const rows = [el(
      "tr",
      { "data-answer": one.answer },
      el("th", { scope: "row" }, open),
      ...cells(one.figure, one),
      el("td", { class: "sk-num", text: p }),
      el("td", { class: "sk-map-answered", text: answered(one) }),
    )];
    if (one.second) {
      const also = el("th", { scope: "row", class: "sk-muted", text: SpecKD.figureName(one.also) });
      rows.push(el("tr", {}, also, ...cells(one.also, one.second), el("td", {}), el("td", {})));
    }
    return rows;
  }

  /* What Top-k rejects in the held-out answers, by student and four ways of counting. */
  masks() {
    const found = this.data[this.student];
    const input = el("select", { class: "sk-select sk-small", "aria-label": tr("Student") });
    for (const name of Object.keys(this.data)) {
      input.append(el("option", { value: name, text: name, selected: name === this.student }));
    }
    input.addEventListener("change", () => {
      this.student = input.value;
      this.masks();
      /** @type {HTMLElement} */ (this.masksBox.querySelector("select")).focus();
    });
    const words = tr(
      "{gate} rejects {rejected} of {n} tokens of the held-out answers; {part} of the forward KL lies in them.",
      {
        gate: SpecKD.armName(TOPK),
        rejected: SpecKD.percent(found.rejected),
        n: SpecKD.format(found.n_tokens, "count"),
        part: SpecKD.percent(found.divergence_rejected),
      },
    );
    const tables = [
      { key: "kind", title: tr("kind of token"), name: (text) => tr(KINDS[text] || text) },
      { key: "place", title: tr("place in the answer"), name: (text) => text.replace(" to ", "–") },
      { key: "teacher_entropy", title: tr("teacher’s entropy, nats"), name: inNats },
      { key: "student_entropy", title: tr("student’s entropy, nats"), name: inNats },
    ];
    this.masksBox.replaceChildren(
      el("p", { class: "sk-map-masks-says" }, input, " ", words),
      el("div", { class: "sk-map-masks" }, ...tables.map((one) => bars(one.title, found[one.key], one.name))),
    );
  }

  /* Growth of TAR a step against what is left to grow, and the line that the bound's form would be. */
  growth({ plain, gated }) {
    const points = (found) =>
      found.map((one) => ({
        x: (one.low + one.high) / 2,
        y: one.growth,
        n: one.n,
        says: tr("1 − TAR {low} to {high}: {growth} a step, {n} looks", {
          low: SpecKD.number(one.low),
          high: SpecKD.number(one.high),
          growth: SpecKD.figures(one.growth, 2),
          n: one.n,
        }),
      }));
    const series = [{ side: "arm", points: points(gated) }, { side: "control", points: points(plain) }];
    const slope = slopeOf(series[1].points);
    const told = { gated: means(series[0].points), plain: means(series[1].points) };
    const label = tr("Growth of TAR a step against 1 − TAR: with the gate {gated}, plain {plain}", told);
    const names = {
      xLabel: "1 − TAR",
      yLabel: tr("growth of TAR a step"),
      xText: (x) => SpecKD.number(x, 2),
      yText: (x) => SpecKD.number(x, 2),
    };
    const who = [[0, SpecKD.armName(TOPK), "a"], [1, SpecKD.armName(PLAIN), "b"]].map(([i, name, letter]) =>
      el("span", { class: `sk-map-key sk-racer-${letter}` }, SpecKD.racerMark(Number(i)), String(name))
    );
    const words = [
      tr("Theorem 1 says: at least ηκ(1 − TAR) a step, a line through zero."),
      tr("The dashed line has that form and plain’s mean growth; a larger point stands on more looks, at least five."),
    ].join(" ");
    const more = el("p", { class: "sk-small sk-muted" }, words, SpecKD.lesson("curriculum", "Theorem 1"));
    const picture = SpecKD.pointChart({ label, series, slope, names });
    return card(tr("Theorem 1, measured"), picture, el("p", { class: "sk-small sk-map-who" }, ...who), more);
  }
}

/** @type {Record<string, string>} */
const KINDS = {
  "word start": "word start",
  "punctuation": "punctuation",
  "seen once here": "seen once here",
  "piece of a word": "piece of a word",
  "white space": "white space",
  "digit": "digit",
  "end of turn": "end of turn",
};
const inNats = (name) => name.replace(" to ", "–").replace(" and more", "+");
function bars(title, rows, name) {
  const body = el("tbody", {});
  for (const one of rows) {
    const more = tr("{n} tokens", { n: SpecKD.format(one.n, "count") });
    body.append(SpecKD.shareBar(name(one.name), one.rejected, { more }));
  }
  return el("div", {}, el("h3", { text: title }), el("table", { class: "sk-bars", "aria-label": title }, body));
}
const means = (points) => points.map((one) => one.says).join("; ");
function slopeOf(points) {
  const weight = points.reduce((sum, one) => sum + one.n * one.x, 0);
  return weight ? points.reduce((sum, one) => sum + one.n * one.y, 0) / weight : 0;
}

SpecKD.createMapBeside = (options) => new Beside(options);
