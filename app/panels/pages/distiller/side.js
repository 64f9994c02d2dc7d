/* The side of the Distill page: figures at this step, held-out figures, what happened, and what to do with it. */

const { el, visible, format } = SpecKD;
const NOTHING = "–";
const PROBE_WORDS =
  "Each row of the probe reads the same held-out answer again, some steps later. Hatched tokens are " +
  "those that the gate rejects: as the student learns there are fewer, and what it may learn from grows.";
/* The lesson about a figure. */
/** @type {Record<string, [string, string]>} */
const LESSONS = {
  tar: ["gate", "the token acceptance rate"],
  divergence: ["divergences", "divergences"],
  masked_share: ["curriculum", "what the gate masks"],
  tokens_per_second: ["speed", "what a step costs"],
};

const known = (x) => x !== null && x !== undefined;
const written = (row, name, kind) => {
  if (!row || !known(row[name])) return NOTHING;
  return format(name === "masked_share" ? Math.max(0, row[name]) : row[name], kind);
};
/* The letters of the racers that a note is about: "B". */
const lettersOf = (run, note) =>
  run.racers.filter((one) => speckdWords.own_share[one.gate.kind] === note).map((one) => one.letter).join(", ");
const line = (head, cells) => {
  const row = el("tr", {}, head);
  row.append(...cells);
  return row;
};
const racerHead = (one) =>
  el(
    "th",
    { scope: "col", class: `sk-num sk-racer-${one.letter.toLowerCase()}`, title: visible(one.name) },
    SpecKD.racerMark(one.index),
    el("b", { text: one.letter }),
  );
function lessonLink(lesson, text) {
  const link = SpecKD.lesson(lesson, text);
  link.className = "sk-link";
  link.textContent = SpecKD.told(text);
  link.removeAttribute("aria-label");
  return link;
}

/* "3.11 (−0.207)": the change is the smaller print. */
function withChange(after, before, name, kind) {
  const cell = el("td", { class: "sk-num", text: written(after, name, kind) });
  if (after && before && known(after[name]) && known(before[name])) {
    const isShare = kind === "share" || kind === "probability";
    const change = format(after[name] - before[name], isShare ? "points" : kind, { signed: true, unit: isShare });
    cell.append(el("small", { text: change }));
  }
  return cell;
}

class DistillSide {
  constructor({ copy, onInspect, bet }) {
    this.copy = copy;
    this.onInspect = onInspect;
    this.revealed = false; // whether the end of the run may be told
    this.verdict = el("section", { class: "sk-outcome", hidden: true, "aria-label": "What happened" });
    this.send = el("div", { class: "sk-after-buttons", hidden: true });
    this.now = el("section", { class: "sk-now", "aria-label": "Figures at this step" });
    this.held = el("section", { class: "sk-held", "aria-label": "Held-out figures" });
    this.after = el("section", { class: "sk-after", hidden: true, "aria-label": "Take it home" });
    this.words = el(
      "section",
      { class: "sk-words sk-small" },
      el("p", { class: "sk-muted" }, PROBE_WORDS),
      el(
        "p",
        { class: "sk-muted sk-words-links" },
        "Learn: ",
        lessonLink("gate", "the gate"),
        " · ",
        lessonLink("curriculum", "the implicit curriculum"),
        " · ",
        lessonLink("when-not", "when not to gate"),
      ),
    );
    this.element = el(
      "aside",
      { class: "sk-distill-side", "aria-label": "Figures of the run" },
      this.verdict,
      bet.told,
      bet.asked,
      this.send,
      this.held,
      this.now,
      this.after,
      this.words,
    );
    this.nowTable = null; // {key, title, left, cells}
  }

  /* `revealed`: the run has come to its end on screen, so its outcome may be told. */
  show(run, { moment, left, revealed }) {
    this.revealed = revealed;
    this.showMoment(run, { moment, left });
    this.showOutcome(run);
  }

  /* The table is made once a run; later only its figures change, so that a focus in it stays. */
  makeNow(run) {
    const title = el("h2", {});
    const left = el("span", { class: "sk-muted sk-left" });
    const cells = [];
    const body = el("tbody", {});
    for (const [name, { label }] of Object.entries(speckdWords.figures)) {
      const row = run.racers.map(() => el("td", { class: "sk-num" }));
      cells.push(row);
      const notes = run.racers.map((one) => (name === "tar" && speckdWords.own_share[one.gate.kind]) || "");
      const said = notes.filter(Boolean).map((note, i) => (i && note === notes[0] ? "" : note)).filter(Boolean);
      const which = said.length
        ? el("small", { text: said.map((note) => `${lettersOf(run, note)}: ${note}`).join("; ") })
        : null;
      const head = el("th", { scope: "row" }, label, LESSONS[name] ? SpecKD.lesson(...LESSONS[name]) : null, which);
      const made = line(head, row);
      made.className = `sk-figure-${name}`;
      body.append(made);
    }
    const head = el("thead", {}, line(el("td", {}, title, left), run.racers.map(racerHead)));
    this.now.replaceChildren(el("table", { class: "sk-figures" }, head, body));
    return { key: run.key, title, left, cells };
  }
  showMoment(run, { moment, left }) {
    if (!run || !run.start) return;
    if (!this.nowTable || this.nowTable.key !== run.key) this.nowTable = this.makeNow(run);
    const { title, left: waiting, cells } = this.nowTable;
    const now = run.racers.map((one) => SpecKD.lastAt(one.rows, moment));
    title.textContent = SpecKD.told(`At step ${moment}`);
    waiting.textContent = left ? SpecKD.told(` ${left} left`) : "";
    Object.entries(speckdWords.figures).forEach(([name, { kind }], row) =>
      now.forEach((one, i) => {
        const text = written(one, name, kind);
        if (cells[row][i].textContent !== text) cells[row][i].textContent = text;
      })
    );
    this.showHeldOut(run, this.revealed ? Infinity : moment);
  }

  /* The held-out figures as they come; once there is a verdict, each with its change since before the run. */
  showHeldOut(run, upTo) {
    const known = (one) => one.heldOut.filter((at) => at.step <= upTo);
    const any = run && run.racers.some((one) => known(one).length);
    const key = any ? `${run.key}/${run.racers.map((one) => known(one).length)}/${this.revealed}` : "";
    if (this.held.dataset.of === key) return;
    this.held.dataset.of = key;
    if (!any) {
      this.held.replaceChildren();
      return;
    }
    const before = run.racers.map((one) => SpecKD.lastAt(one.heldOut, 0)).find(Boolean) || null;
    const after = run.racers.map((one) => known(one).filter((at) => at.step > 0).pop() || null);
    /** @type {(entry: [string, Figure]) => boolean} */
    const told = ([name]) => [before, ...after].some((one) => one && Number.isFinite(one[name]));
    const rows = Object.entries(speckdWords.held_out).filter(told).map(([name, { label, kind }]) =>
      line(el("th", { scope: "row", text: label }), [
        el("td", { class: "sk-num", text: written(before, name, kind) }),
        ...after.map((one) => withChange(one, this.revealed ? before : null, name, kind)),
      ])
    );
    const title = el("h2", {}, "Held out", SpecKD.lesson("when-not", "what the gate costs and brings"));
    const first = el("th", { scope: "col", class: "sk-num", text: "before" });
    const head = el("thead", {}, line(el("td", {}, title), [first, ...run.racers.map(racerHead)]));
    const body = el("tbody", {});
    body.append(...rows);
    const about = { tabindex: "0", role: "region", "aria-label": "Table of held-out figures" };
    const table = el("table", { class: "sk-figures sk-held-table" }, head, body);
    this.held.replaceChildren(el("div", { class: "sk-scroll", ...about }, table));
  }

  showOutcome(run) {
    const text = run && run.verdict && this.revealed ? run.verdict.text : "";
    this.verdict.hidden = !text;
    if (text && this.verdict.dataset.of !== run.key) {
      this.verdict.dataset.of = run.key;
      const [, first, rest] = /^(.*?[.!?])(?:\s+(\p{Lu}.*))?$/su.exec(text) || ["", text, ""];
      this.verdict.replaceChildren(el("p", { class: "sk-outcome-first", text: visible(first) }));
      if (rest) this.verdict.append(el("p", { class: "sk-small sk-muted", text: visible(rest) }));
    }
    const kept = run && this.revealed ? run.kept : null;
    this.after.hidden = this.send.hidden = !kept;
    this.words.hidden = Boolean(kept);
    if (!kept || this.after.dataset.of === run.key) return;
    this.after.dataset.of = run.key;
    this.send.replaceChildren(...(kept.students || []).map((one) => this.sendButton(run, one)));
    this.after.replaceChildren(...(kept.command ? this.commandNodes(kept.command) : []));
  }
  sendButton(run, one) {
    const racer = run.racers[one.racer];
    const text = racer && run.racers.length > 1 ? `Inspect ${racer.letter}` : "Inspect this student";
    const go = () => this.onInspect(one, racer);
    const mark = racer ? SpecKD.racerMark(racer.index) : null;
    return el("button", { type: "button", class: "sk-button", onclick: go }, mark, el("span", { text }));
  }
  commandNodes(command) {
    const copy = el("button", { type: "button", class: "sk-button sk-quiet sk-small", text: "Copy" });
    copy.addEventListener("click", () => this.copy(command, "The command is copied.", "select it and copy by hand."));
    return [
      el("div", { class: "sk-side-head" }, el("h2", { text: "Repeat it in a shell" }), copy),
      el("code", { class: "sk-command", tabindex: "0", text: visible(command) }),
    ];
  }
}

SpecKD.createDistillSide = (options) => new DistillSide(options);
