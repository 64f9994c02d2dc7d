/* Who is ahead: the rounds one after another, draft and verification in their own hues, over plain decoding of the same
   text on the same clock. A hand or a click moves along it. */

const { el, svg } = SpecKD;
const HEIGHT = 74;
const LANES = { ours: { y: 4, high: 22 }, plain: { y: 44, high: 16 } };
const LEAST = 0.4; // pixels

class DecodeClock {
  constructor(root, { onMoment = (_moment) => {} } = {}) {
    this.onMoment = onMoment;
    this.decoding = null;
    this.width = 0;
    this.state = null;
    this.sheet = svg("svg", { class: "sk-clock-sheet", height: HEIGHT, role: "img" });
    this.told = el("p", { class: "sk-clock-told sk-small" });
    this.element = el("div", { class: "sk-clock" }, this.sheet, this.told);
    root.append(this.element);
    this.observer = new ResizeObserver(() => {
      if (Math.abs(this.sheet.clientWidth - this.width) > 1) this.draw();
    });
    this.observer.observe(this.sheet);
    const follow = (event) => {
      if (event.type === "pointermove" && !event.buttons) return;
      this.onMoment(this.momentAt(event.clientX - this.sheet.getBoundingClientRect().left));
    };
    this.sheet.addEventListener("pointerdown", follow);
    this.sheet.addEventListener("pointermove", follow);
  }

  setDecoding(decoding) {
    this.decoding = decoding;
    this.draw();
  }
  grow(decoding) {
    this.setDecoding(decoding);
  }
  setMoment(state) {
    this.state = state;
    this.place();
  }

  /* Seconds that fill the whole width. */
  whole() {
    const { decoding } = this;
    const plain = decoding.facts && decoding.facts.token_seconds ? decoding.facts.token_seconds * decoding.tokens : 0;
    return Math.max(decoding.seconds, plain, 1e-9);
  }
  momentAt(x) {
    const { decoding } = this;
    if (!decoding || !decoding.rounds.length) return 0;
    const seconds = (x / Math.max(1, this.width)) * this.whole();
    const round = decoding.rounds.findLast((one) => one.began <= seconds) || decoding.rounds[0];
    return decoding.end(round);
  }

  draw() {
    const { decoding, sheet } = this;
    this.width = sheet.clientWidth;
    if (!decoding || !this.width) return;
    const scale = this.width / this.whole();
    const { ours, plain } = LANES;
    const nodes = [];
    const box = (kind, lane, from, seconds) =>
      nodes.push(svg("rect", {
        class: kind,
        x: (from * scale).toFixed(2),
        y: lane.y,
        width: Math.max(LEAST, seconds * scale - 0.8).toFixed(2),
        height: lane.high,
      }));
    for (const round of decoding.rounds) {
      if (round.draft > 0 && round.nodes.length) box("sk-clock-draft", ours, round.began, round.draft);
      box("sk-clock-verify", ours, round.began + (round.nodes.length ? round.draft : 0), round.verify);
    }
    const token = decoding.facts ? decoding.facts.token_seconds : null;
    if (token && decoding.record && decoding.record.plain_seconds) {
      for (let t = 0; t < decoding.tokens; t++) box("sk-clock-plain", plain, t * token, token);
    }
    this.veil = svg("rect", { class: "sk-clock-veil", y: 0, height: HEIGHT });
    this.cursor = svg("line", { class: "sk-clock-cursor", y1: 0, y2: HEIGHT });
    sheet.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    sheet.replaceChildren(...nodes, this.veil, this.cursor);
    this.place();
  }
  place() {
    const { decoding, state } = this;
    if (!decoding || !state || !this.veil) return;
    const now = decoding.at(state.moment);
    const x = (now.seconds / this.whole()) * this.width;
    this.veil.setAttribute("x", String(x));
    this.veil.setAttribute("width", String(Math.max(0, this.width - x)));
    this.cursor.setAttribute("x1", String(x));
    this.cursor.setAttribute("x2", String(x));
    const words = this.words(now);
    this.told.textContent = words;
    this.sheet.setAttribute("aria-label", words);
  }
  words(now) {
    const { decoding } = this;
    const seconds = SpecKD.format(now.seconds, "seconds");
    const token = decoding.facts ? decoding.facts.token_seconds : null;
    if (!token || !decoding.record || !decoding.record.plain_seconds) {
      return SpecKD.tr("After {seconds}: {n} tokens.", { seconds, n: now.tokens });
    }
    const plain = Math.min(decoding.tokens, Math.floor(now.seconds / token + 1e-9));
    if (now.tokens === decoding.tokens) { // who was ahead
      return SpecKD.tr("{n} tokens: {seconds} by rounds (above), {plain} by plain decoding (below).", {
        seconds,
        n: now.tokens,
        plain: SpecKD.format(token * decoding.tokens, "seconds"),
      });
    }
    return SpecKD.tr("After {seconds}: {n} tokens by rounds (above), {plain} by plain decoding (below).", {
      seconds,
      n: now.tokens,
      plain,
    });
  }
  destroy() {
    this.observer.disconnect();
  }
}

SpecKD.createDecodeClock = (root, options) => new DecodeClock(root, options);
