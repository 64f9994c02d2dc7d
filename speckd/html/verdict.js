/* The verdict on one token, drawn: the student's ten likeliest on the left, the teacher's ten on the right, lines
   between the same tokens, a boundary under the teacher's k-th row, and the proposal running across to its fate. */

const { el, svg, ordinal, shown } = SpecKD;

/* Text cut to the room there is. Two tokens that differ by a leading space alone would look the same: then the space is
   shown. */
SpecKD.shortened = function (ruler, host, text, room, twins, size = 13) {
  const bare = shown(text);
  const full = twins.has(bare) && text.startsWith(" ") && text.trim() ? "␣" + bare : bare;
  ruler.font = `700 ${size}px ${getComputedStyle(host).fontFamily}`;
  const fits = (some) => ruler.measureText(some).width <= room;
  if (full.length < 5 || fits(full)) return full;
  const characters = Array.from(full.slice(0, 80)); // never half a surrogate pair
  while (characters.length > 2 && !fits(characters.join("") + "…")) characters.pop();
  return characters.join("") + "…";
};

class VerdictCard {
  /** @param {HTMLElement} root @param {Parameters<SpecKDParts["createVerdict"]>[1]} options */
  constructor(root, { onAlternative = null } = {}) {
    this.onAlternative = onAlternative;
    /** @type {Trace | null} */
    this.trace = null;
    this.t = -1;
    /** @type {Gated | null} */
    this.gated = null;
    /** @type {Knobs | null} */
    this.knobs = null;
    this.parts = null; // the nodes that a moved slider touches
    this.rowFocus = 0;
    this.size = 13;
    this.where = el("span", { class: "sk-small sk-muted" });
    this.heading = el("h2", { class: "sk-verdict-heading", "aria-live": "polite" });
    this.picture = svg("svg", { class: "sk-picture", role: "group" });
    this.reason = el("div", { class: "sk-reason" });
    this.sum = el("div", { class: "sk-sum" });
    this.facts = el("table", { class: "sk-facts" });
    this.chances = el("dl", { class: "sk-chances" });
    this.element = el(
      "section",
      { class: "sk-verdict", "aria-label": "Verdict of one token" },
      el("div", { class: "sk-verdict-title" }, this.where, this.heading),
      this.picture,
      this.reason,
      this.sum,
      this.facts,
      this.chances,
    );
    root.append(this.element);
    this.ruler = document.createElement("canvas").getContext("2d");
    this.short = this.short.bind(this);
    this.observer = new ResizeObserver(() => {
      if (this.parts && Math.abs(this.picture.clientWidth - this.parts.shape.width) > 2) this.draw();
    });
    this.observer.observe(this.picture);
  }

  show(trace, t, gated, knobs) {
    const same = trace === this.trace && t === this.t && this.parts !== null;
    [this.trace, this.t, this.gated, this.knobs] = [trace, t, gated, knobs];
    if (t < 0 || !trace) return;
    if (same) this.settle();
    else this.draw();
  }

  short(text, room, twins = new Set()) {
    return SpecKD.shortened(this.ruler, this.element, text, room, twins, this.size);
  }

  draw() {
    const width = Math.max(260, this.picture.clientWidth || 400);
    const live = this.onAlternative !== null;
    const { roomy, vast } = SpecKD.roomOfLists(width);
    this.size = vast ? 19 : roomy ? 15 : 13; // pixels of a row's text (view.css)
    this.picture.classList.toggle("sk-roomy", roomy);
    this.picture.classList.toggle("sk-vast", vast);
    this.parts = SpecKD.drawLists(this.trace, this.t, { width, live, short: this.short });
    const { nodes, rows, shape } = this.parts;
    this.picture.setAttribute("viewBox", `0 0 ${width} ${shape.height}`);
    this.picture.setAttribute("height", String(shape.height));
    this.picture.replaceChildren(...nodes);
    if (live) this.roving(rows, shape.n);
    this.settle();
  }

  /* Rows are one tab stop: up and down walk a list, left and right change sides. */
  roving(rows, n) {
    this.rowFocus = 0;
    rows[0].setAttribute("tabindex", "0");
    const move = (next) => {
      if (next < 0 || next >= rows.length) return;
      rows[this.rowFocus].setAttribute("tabindex", "-1");
      this.rowFocus = next;
      rows[this.rowFocus].setAttribute("tabindex", "0");
      rows[this.rowFocus].focus();
    };
    rows.forEach((row, i) => {
      const choose = () => this.onAlternative(this.t, Number(row.dataset.id));
      const across = { ArrowRight: i < n ? i + n : i, ArrowLeft: i >= n ? i - n : i };
      const along = { ArrowDown: i + 1, ArrowUp: i - 1 };
      row.addEventListener("click", choose);
      row.addEventListener("keydown", (event) => {
        const chosen = event.key === "Enter" || event.key === " ";
        if (!chosen && !(event.key in across) && !(event.key in along)) return;
        event.preventDefault();
        if (chosen) choose();
        else if (event.key in across) move(across[event.key]);
        else if (Math.floor(along[event.key] / n) === Math.floor(i / n)) move(along[event.key]);
      });
    });
  }

  /* What moves with the gate: the boundary, the proposal's fate, the sentence and the arithmetic. */
  settle() {
    const { trace, t, gated, knobs } = this;
    const { shape, rank } = this.parts;
    const accepted = gated.accepted[t] === 1;
    this.placeBoundary(accepted);
    const proposal = shown(SpecKD.tokenText(trace, trace.proposal_ids[t]));
    const word = accepted ? "accepted" : "rejected";
    this.where.textContent = SpecKD.told(`token ${t + 1} of ${trace.tokens.length}`);
    this.heading.replaceChildren(
      el("bdi", { class: "sk-quote", text: shown(trace.tokens[t]) }),
      el("span", { class: `sk-chip sk-chip-${word}`, text: (accepted ? "✓ " : "✕ ") + word }),
    );
    const fate = `Student proposes ${proposal}, the teacher's ${ordinal(rank)}: ${word}`;
    this.picture.setAttribute("aria-label", SpecKD.told(fate));
    this.reason.replaceChildren(...SpecKD.reasonNodes(trace, t, knobs, { accepted, width: shape.width }));
    this.sum.replaceChildren(...SpecKD.sumNodes(gated, t, knobs));
    this.facts.replaceChildren(...SpecKD.factNodes(trace, t, this.short));
    this.chances.replaceChildren(...SpecKD.chanceNodes(trace, t, knobs.k));
  }
  placeBoundary(accepted) {
    const { shape, zone, boundary, strong, badge, onList, rank } = this.parts;
    const { k, gate } = this.knobs;
    const byRank = gate === "topk";
    let at = shape.top + Math.min(k, shape.n) * shape.row; // the row that the boundary lies under
    if (k > shape.n && !onList && rank <= k) at = shape.y(shape.offRow) + shape.row / 2;
    boundary.style.transform = `translateY(${at}px)`;
    boundary.style.display = zone.style.display = byRank ? "" : "none";
    boundary.lastChild.textContent = `k = ${k}`;
    zone.setAttribute("height", String(Math.max(0, at - shape.top)));
    this.picture.classList.toggle("sk-is-accepted", accepted);
    this.picture.classList.toggle("sk-is-rejected", !accepted);
    this.picture.classList.toggle("sk-by-rank", byRank);
    strong.setAttribute("stroke-dasharray", byRank && !accepted ? "6 5" : "none");
    badge.style.display = byRank ? "" : "none";
  }

  /* The keyboard goes to the lists. */
  focus() {
    const row = this.parts && this.parts.rows[this.rowFocus];
    if (row) row.focus({ preventScroll: true });
  }
  clear() {
    this.trace = null;
    this.t = -1;
    this.parts = null;
    const { picture, where, heading, reason, sum, facts, chances } = this;
    for (const part of [picture, where, heading, reason, sum, facts, chances]) part.replaceChildren();
  }
  destroy() {
    this.observer.disconnect();
  }
}

SpecKD.createVerdict = (root, options) => new VerdictCard(root, options);
