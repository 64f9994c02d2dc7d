/* A lesson's words as nodes. They come from the server as a tree (app/lessons) and never as markup. */

const { el, tr } = SpecKD;
const MATHML = "http://www.w3.org/1998/Math/MathML";
const MATH_TAGS = new Set(
  "math mrow mi mn mo mtext mfrac msqrt msub msup msubsup munder mover munderover mspace".split(" "),
);
const MATH_ATTRIBUTES = new Set(["display", "width", "accent", "mathvariant"]);
const LETTERS = "abcdefgh"; // of a step's sources
const GAP = 120; // milliseconds from a term to its explanation

class LessonText {
  /* `open(lesson, step)` follows a link, `point(name)` shows where something is in the picture, `exercise(task)` makes
     a prediction, `outcome(node)` says how the final test went, `frame` is what an explanation stays within. */
  constructor({ id, glossary, frame, open, point, exercise, outcome }) {
    this.glossary = glossary;
    this.frame = frame;
    this.open = open;
    this.point = point;
    this.exercise = exercise;
    this.outcome = outcome;
    this.sources = []; // of the step that is being written
    this.tip = el("div", { class: "sk-learn-tip", role: "tooltip", id: `${id}-tip`, hidden: true });
    this.tipOf = null; // the term that it explains
    this.tip.addEventListener("pointerleave", () => this.hideTip());
    frame.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.tipOf) return;
      event.stopPropagation();
      this.hideTip();
    }, true);
    this.build = this.build.bind(this);
    this.buildPlain = this.buildPlain.bind(this);
  }

  /** @returns {Node} */
  build(node) {
    // never broken at a line's end
    if (typeof node === "string") return document.createTextNode(node.replace(/\b(Top|Spec)-k\b/g, "$1\u2011k"));
    const children = () => (node.children || []).map(this.build);
    if (["p", "ul", "ol", "li", "b", "i", "h3", "code"].includes(node.tag)) return el(node.tag, {}, ...children());
    const make = {
      quote: () => el("blockquote", {}, ...children()),
      field: () => el("span", { class: "sk-learn-number", text: node.text }),
      number: () => {
        return el("span", { class: "sk-learn-number", text: SpecKD.formatNode(node) });
      },
      hands: () => SpecKD.createHands(node),
      outcome: () => this.outcome(node),
      claim: () => el("span", { class: "sk-learn-claim" }, ...children()),
      token: () => this.token(node),
      math: () => this.math(node.math),
      formula: () => {
        const about = { tabindex: "0", role: "group", "aria-label": tr("Formula") };
        return el("div", { class: "sk-learn-formula", ...about }, this.math(node.math));
      },
      table: () => this.table(node),
      quoted: () => {
        const source = el("figcaption", { class: "sk-small sk-muted", text: tr("Source: {source}", node) });
        return el("figure", { class: "sk-learn-quoted" }, ...children(), source);
      },
      cite: () => this.cite(node),
      term: () => this.term(node, children()),
      point: () => this.pointer(node, children()),
      link: () => this.link(node, children()),
      exercise: () => this.exercise(node),
    }[node.tag];
    return make ? make() : document.createTextNode("");
  }
  /* A term inside an explanation is a word, and explains itself no further. */
  buildPlain(node) {
    if (typeof node === "string" || node.tag !== "term") return this.build(node);
    return el("span", {}, ...node.children.map(this.buildPlain));
  }

  /* Its place in the text tells it from the same word elsewhere. */
  token(node) {
    const quote = el("bdi", { class: "sk-quote", text: SpecKD.shown(node.text) });
    return node.place ? el("span", { class: "sk-learn-named" }, quote, el("sub", { text: node.place })) : quote;
  }
  /** @param {any[]} formula its tag, its attributes and its children */
  math([tag, attributes, children]) {
    const node = document.createElementNS(MATHML, MATH_TAGS.has(tag) ? tag : "mrow");
    for (const [name, value] of Object.entries(attributes)) {
      if (MATH_ATTRIBUTES.has(name)) node.setAttribute(name, value);
    }
    for (const child of children) {
      if (typeof child === "string") node.append(child);
      else node.append(Array.isArray(child) ? this.math(child) : this.build(child).textContent);
    }
    return node;
  }
  table(node) {
    const head = el("tr", {});
    node.head.forEach((cell, i) => {
      head.append(el("th", { scope: "col", class: i ? "sk-num" : null }, ...cell.map(this.build)));
    });
    const rows = el("tbody", {});
    for (const row of node.rows) {
      const line = el("tr", {});
      row.forEach((cell, i) => {
        const built = cell.map(this.build);
        line.append(i ? el("td", { class: "sk-num" }, ...built) : el("th", { scope: "row" }, ...built));
      });
      rows.append(line);
    }
    const about = { tabindex: "0", role: "group", "aria-label": tr("Table") };
    return el("div", { class: "sk-learn-table", ...about }, el("table", {}, el("thead", {}, head), rows));
  }
  cite(node) {
    let at = this.sources.indexOf(node.source);
    if (at < 0) at = this.sources.push(node.source) - 1;
    const letter = el("sup", {
      "aria-label": tr("source {letter}", { letter: LETTERS[at] }),
      role: "note",
      text: LETTERS[at],
    });
    return el("span", { class: "sk-learn-cite", title: node.source }, el("span", { text: node.text }), letter);
  }
  pointer(node, children) {
    const show = () => this.point(node.point);
    const about = { type: "button", class: "sk-learn-point", title: tr("Show it in the picture"), onclick: show };
    return el("button", about, ...children);
  }
  link(node, children) {
    const href = `#tab=learn&lesson=${node.lesson}&step=${node.step}`;
    const link = el("a", { class: "sk-link", href }, ...children);
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.open(node.lesson, node.step);
    });
    return link;
  }

  /* --- a term says what it means ------------------------------------------------------------------------------- */

  term({ term: name }, children) {
    const button = el(
      "button",
      { type: "button", class: "sk-learn-term", "aria-describedby": this.tip.id },
      ...children,
    );
    const show = () => this.showTip(button, name);
    button.addEventListener("pointerenter", (event) => {
      if (event.pointerType !== "touch") show();
    });
    button.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "touch") return;
      setTimeout(() => {
        if (!this.tip.matches(":hover") && document.activeElement !== button) this.hideTip();
      }, GAP);
    });
    button.addEventListener("focus", show);
    button.addEventListener("blur", () => this.hideTip());
    button.addEventListener("click", show);
    return button;
  }
  showTip(button, name) {
    const term = this.glossary[name];
    if (!term) return;
    const { tip } = this;
    this.tipOf = button;
    tip.replaceChildren(el("b", { text: name }), " ", ...term.says.map(this.buildPlain));
    tip.hidden = false;
    const frame = this.frame.getBoundingClientRect();
    const at = button.getBoundingClientRect();
    const width = Math.min(340, frame.width - 24);
    tip.style.width = width + "px";
    const left = Math.max(12, Math.min(at.left - frame.left, frame.width - width - 12));
    const below = at.bottom + tip.offsetHeight + 8 < innerHeight;
    tip.style.left = left + "px";
    tip.style.top = (below ? at.bottom - frame.top + 6 : at.top - frame.top - tip.offsetHeight - 6) + "px";
  }
  hideTip() {
    this.tip.hidden = true;
    this.tipOf = null;
  }
}

SpecKD.createLessonText = (options) => new LessonText(options);
