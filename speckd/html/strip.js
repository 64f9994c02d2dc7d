/* The response as running text: one token, one mark. Accepted: a solid line below; rejected: a dashed box, hatched.
   The fill follows 1 - TVD, the chance that one random draw of the student would be accepted.

   Interlinear, the word that the student proposed stands above a token that is another one: it is the word that the
   gate judges, so the mark is on it, and it is struck through where it was rejected. */

const { el } = SpecKD;

class TokenStrip {
  /** @param {HTMLElement} root @param {Parameters<SpecKDParts["createStrip"]>[1]} options */
  constructor(root, { onPin = () => {}, onHover = () => {}, label = "Response", interlinear = false } = {}) {
    this.onPin = onPin;
    this.onHover = onHover;
    this.label = label;
    /** @type {Trace | SmallTrace | null} */
    this.trace = null;
    /** @type {HTMLElement[]} */
    this.marks = [];
    this.state = new Int8Array(0); // what each mark shows now: -1 nothing yet, 0 rejected, 1 accepted
    this.current = -1; // the one in the tab order
    this.hovered = -1;
    this.pinned = -1;
    this.unspoken = new Set(); // tokens whose spoken label is out of date
    this.timer = 0;
    const about = { role: "listbox", "aria-orientation": "horizontal", tabindex: "-1", dir: "auto" };
    this.element = el("div", { class: "sk-strip", ...about });
    root.append(this.element);
    this.setInterlinear(interlinear);
    this.listen();
  }

  listen() {
    const list = this.element;
    list.addEventListener("pointerover", (event) => {
      const t = this.indexOf(event.target);
      if (t >= 0 && event.pointerType !== "touch") this.onHover(t);
    });
    list.addEventListener("pointerleave", () => this.onHover(-1));
    list.addEventListener("click", (event) => {
      const t = this.indexOf(event.target);
      if (t < 0) return;
      this.focusable(t);
      this.onPin(t);
    });
    list.addEventListener("focusin", (event) => {
      const t = this.indexOf(event.target);
      if (t < 0) return;
      this.speak();
      this.focusable(t);
      if (/** @type {Element} */ (event.target).matches(":focus-visible")) this.onHover(t);
    });
    list.addEventListener("focusout", (event) => {
      if (!list.contains(/** @type {Node} */ (event.relatedTarget))) this.onHover(-1);
    });
    list.addEventListener("keydown", (event) => this.walk(event));
  }
  walk(event) {
    const t = this.indexOf(event.target);
    if (t < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const last = this.marks.length - 1;
    const line = (way) => this.line(t, way);
    const goal = {
      ArrowRight: () => t + 1,
      ArrowLeft: () => t - 1,
      ArrowDown: () => line(1),
      ArrowUp: () => line(-1),
      Home: () => 0,
      End: () => last,
    }[event.key];
    if (goal) {
      event.preventDefault();
      this.focusable(Math.max(0, Math.min(last, goal())));
      this.marks[this.current].focus();
      this.onHover(this.current);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.onPin(t);
    }
  }

  indexOf(node) {
    const mark = node && node.closest ? node.closest(".sk-token") : null;
    return mark && this.element.contains(mark) ? Number(mark.dataset.t) : -1;
  }

  /* The token above or below, by where it stands on the page. */
  line(t, way) {
    const from = this.marks[t].getBoundingClientRect();
    let best = t;
    let bestDistance = Infinity;
    let row = null;
    for (let i = t + way; i >= 0 && i < this.marks.length; i += way) {
      const box = this.marks[i].getBoundingClientRect();
      if (Math.abs(box.top - from.top) < 6) continue;
      if (row === null) row = box.top;
      if (Math.abs(box.top - row) > 6) break;
      const distance = Math.abs(box.left - from.left);
      if (distance < bestDistance) [best, bestDistance] = [i, distance];
    }
    return best;
  }

  focusable(t) {
    if (this.marks[this.current]) this.marks[this.current].tabIndex = -1;
    this.current = t;
    if (this.marks[this.current]) this.marks[this.current].tabIndex = 0;
  }

  setTrace(next) {
    this.trace = next;
    this.unspoken.clear();
    const page = document.createDocumentFragment();
    this.marks = next.tokens.map((text, t) => {
      const special = /^<\|.*\|>$/.test(text);
      // the space before a word stays outside its mark
      const leading = special ? "" : (/^ (?=\S)/.exec(text) || [""])[0];
      const body = text.slice(leading.length);
      const mark = this.markOf(body, t, special);
      page.append(leading, mark);
      if (body.includes("\n")) page.append(el("br", { "aria-hidden": "true" }));
      return mark;
    });
    this.state = new Int8Array(this.marks.length).fill(-1);
    this.element.replaceChildren(page);
    this.element.classList.remove("sk-pending");
    const about = `${this.label}, ${this.marks.length} tokens. Arrow keys walk, Enter pins.`;
    this.element.setAttribute("aria-label", SpecKD.told(about));
    this.current = this.hovered = this.pinned = -1;
    this.focusable(0);
    this.element.scrollTop = 0;
  }
  markOf(body, t, special) {
    const blank = /^\s*$/.test(body);
    const kind = `sk-token${special ? " sk-special" : ""}${blank ? " sk-blank" : ""}`;
    const text = blank ? SpecKD.shown(body) : SpecKD.visible(body);
    const mark = el("span", { class: kind, role: "option", "data-t": t, tabindex: "-1", text });
    const chance = Math.max(0, Math.min(1, SpecKD.acceptanceOfOneDraw(this.trace, t)));
    mark.style.setProperty("--a", chance.toFixed(3));
    const proposed = SpecKD.proposedInstead(this.trace, t);
    if (proposed !== null) {
      mark.classList.add("sk-differs");
      mark.dataset.proposed = SpecKD.shown(proposed); // shown above by the style alone: copied text stays the text
    }
    return mark;
  }

  /* With it, the student's word stands above a token where it proposed another, and bears the mark. */
  setInterlinear(yes) {
    this.element.classList.toggle("sk-interlinear", yes);
  }
  isInterlinear() {
    return this.element.classList.contains("sk-interlinear");
  }

  /* The whole repaint of a moved slider: only the tokens that changed are touched. What a screen reader says of them
     follows when the hand rests. */
  paint(gated) {
    for (let t = 0; t < this.marks.length; t++) {
      if (this.state[t] === gated.accepted[t]) continue;
      this.state[t] = gated.accepted[t];
      this.marks[t].classList.toggle("sk-accepted", this.state[t] === 1);
      this.marks[t].classList.toggle("sk-rejected", this.state[t] === 0);
      this.unspoken.add(t);
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.speak(), 60);
  }

  speak() {
    for (const t of this.unspoken) {
      if (this.marks[t]) this.marks[t].setAttribute("aria-label", SpecKD.told(this.spoken(t)));
    }
    this.unspoken.clear();
  }

  spoken(t) {
    const chance = SpecKD.percent(SpecKD.acceptanceOfOneDraw(this.trace, t));
    const verdict = this.state[t] ? "accepted" : "rejected";
    const proposed = SpecKD.proposedInstead(this.trace, t);
    const instead = proposed === null ? "" : `, the student proposes ${SpecKD.spoken(proposed)}`;
    const where = `token ${t + 1}, one random draw passes with ${chance}`;
    return `${SpecKD.spoken(this.trace.tokens[t])}: ${verdict}, ${where}${instead}`;
  }

  setCursor(t) {
    if (this.marks[this.hovered]) this.marks[this.hovered].classList.remove("sk-hovered");
    this.hovered = t;
    if (this.marks[this.hovered]) this.marks[this.hovered].classList.add("sk-hovered");
  }

  setPinned(t, reveal = true) {
    if (this.marks[this.pinned]) {
      this.marks[this.pinned].classList.remove("sk-pinned");
      this.marks[this.pinned].setAttribute("aria-selected", "false");
    }
    this.pinned = t;
    if (!this.marks[this.pinned]) return;
    this.marks[this.pinned].classList.add("sk-pinned");
    this.marks[this.pinned].setAttribute("aria-selected", "true");
    this.focusable(t);
    if (reveal && this.element.scrollHeight > this.element.clientHeight) {
      const box = this.marks[t].getBoundingClientRect();
      const frame = this.element.getBoundingClientRect();
      if (box.top < frame.top || box.bottom > frame.bottom) {
        this.element.scrollTop += box.top - frame.top - frame.height / 3;
      }
    }
  }

  /* While a response is being written there is text, and no verdict yet. */
  setPending(text) {
    this.trace = null;
    this.unspoken.clear();
    this.marks = [];
    this.state = new Int8Array(0);
    this.current = this.hovered = this.pinned = -1;
    this.element.classList.add("sk-pending");
    this.element.setAttribute("aria-label", SpecKD.told(`${this.label}, being written`));
    const pieces = text.split("\n");
    const page = document.createDocumentFragment();
    pieces.forEach((piece, i) => page.append(i ? el("br", {}) : "", SpecKD.visible(piece)));
    this.element.replaceChildren(page);
    this.element.scrollTop = this.element.scrollHeight;
  }

  token(t) {
    return this.marks[t];
  }
}

/* What the student proposed where the text has another token; null where they agree, or where nobody knows. */
SpecKD.proposedInstead = function (trace, t) {
  if (!("proposal_ids" in trace)) {
    const proposed = trace.proposal ? trace.proposal[t] ?? null : null;
    return proposed === trace.tokens[t] ? null : proposed;
  }
  const id = trace.proposal_ids[t];
  return id === trace.input_ids[trace.n_prompt + t] ? null : SpecKD.tokenText(trace, id);
};

/* The switch between the interlinear strip and the plain one, with what stands above in words. */
SpecKD.interlinearSwitch = function (strip) {
  const input = el("input", { type: "checkbox", checked: true });
  input.addEventListener("change", () => strip.setInterlinear(input.checked));
  strip.setInterlinear(true);
  const word = el("span", { class: "sk-student-text", text: "the student’s word" });
  const title = "Above a word of the text, where it proposed another: struck through where the gate rejects it";
  return el("label", { class: "sk-switch", title }, input, word, " above");
};

SpecKD.createStrip = (root, options) => new TokenStrip(root, options);
