/* One round, large: the drafted tokens as a tree (a chain is one with a single branch), the text itself running along
   the top row into the teacher's own token; each draft with its bar min(1, p/q) and its coin. Below it, where the round
   has them, the curve of Dynamic Depth Decoding against its threshold. HiSpec is drawn as three floors. */

const { el, svg, shown, tr } = SpecKD;
const BOX = { wide: 94, high: 42, gap: 14, row: 52, left: 4, top: 6 };
const WORD = 11; // characters of a token that fit

const short = (text) => {
  const characters = Array.from(shown(text));
  return characters.length > WORD ? characters.slice(0, WORD - 1).join("") + "…" : characters.join("");
};
const xOf = (column) => BOX.left + column * (BOX.wide + BOX.gap);
const yOf = (row) => BOX.top + row * BOX.row;
const link = (from, to, kind) => {
  const [x0, y0, x1, y1] = [from.x + BOX.wide, from.y + BOX.high / 2, to.x, to.y + BOX.high / 2];
  const middle = (x0 + x1) / 2;
  return svg("path", { class: kind, d: `M${x0},${y0} C${middle},${y0} ${middle},${y1} ${x1},${y1}` });
};

/* Where each node stands: the text along the top row, every other branch on a row below. */
function layOut(round) {
  const children = new Map();
  round.nodes.forEach((node, i) => children.set(node.parent, [...(children.get(node.parent) || []), i]));
  const end = round.path.length ? round.path[round.path.length - 1] : -1;
  const onPath = (i) => (round.path.includes(i) ? 0 : 1);
  const places = new Map();
  let rows = 0;
  const walk = (node, column, row) => {
    places.set(node, { x: xOf(column), y: yOf(row), column, row });
    let next = row;
    if (node === end && round.own !== null) {
      places.set("own", { x: xOf(column + 1), y: yOf(next), column: column + 1, row: next });
      next = ++rows;
    }
    const ordered = [...(children.get(node) || [])].sort((a, b) => onPath(a) - onPath(b) || a - b);
    ordered.forEach((child, at) => {
      if (at > 0) next = ++rows;
      walk(child, column + 1, next);
    });
  };
  walk(-1, 0, 0);
  // A branch that opened a row and found none to put there leaves a gap: rows are counted anew.
  const used = [...new Set([...places.values()].map((place) => place.row))].sort((a, b) => a - b);
  for (const place of places.values()) {
    place.row = used.indexOf(place.row);
    place.y = yOf(place.row);
  }
  return places;
}

/* A token in its box; `look` is its class, `bar` what stands below its word. */
function token({ x, y }, text, look, about = {}, ...more) {
  return svg(
    "g",
    { class: `sk-node ${look}`, transform: `translate(${x}, ${y})`, ...about },
    svg("rect", { class: "sk-node-box", width: BOX.wide, height: BOX.high, rx: 6 }),
    svg("text", { class: "sk-node-word", x: 8, y: 18, text: short(text) }),
    ...more,
  );
}
function barNodes(node) {
  const [x, y, wide] = [8, 27, BOX.wide - 16];
  /** @type {SVGElement[]} */
  const nodes = [
    svg("rect", { class: "sk-node-slot", x, y, width: wide, height: 7, rx: 2 }),
    svg("rect", { class: "sk-node-fill", x, y, width: Math.max(0.5, wide * node.acceptance), height: 7, rx: 2 }),
  ];
  if (node.coin !== null && node.coin !== undefined) {
    const at = x + wide * node.coin;
    nodes.push(svg("line", { class: "sk-node-coin", x1: at, x2: at, y1: y - 3, y2: y + 10 }));
  }
  return nodes;
}
const markNode = (verdict) =>
  svg("text", {
    class: "sk-node-mark",
    x: BOX.wide - 7,
    y: 18,
    "text-anchor": "end",
    text: SpecKD.VERDICT_MARKS[verdict],
  });

class DecodeStage {
  constructor(root, { onPin = (_round, _node) => {}, looked }) {
    this.onPin = onPin;
    this.looked = looked;
    this.decoding = null;
    this.pin = null;
    this.heading = el("h2", { class: "sk-stage-heading" });
    this.sheet = svg("svg", { class: "sk-stage-sheet", role: "group" });
    this.curve = svg("svg", { class: "sk-stage-curve", role: "img", width: 250, height: 96 });
    this.box = el("div", { class: "sk-stage-box" }, this.sheet);
    this.element = el("section", { class: "sk-stage", "aria-label": tr("The round") }, this.heading, this.box);
    this.element.append(this.curve);
    root.append(this.element);
    this.sheet.addEventListener("click", (event) => this.choose(event.target));
    this.sheet.addEventListener("keydown", (event) => this.walk(event));
  }

  choose(target) {
    const node = /** @type {Element} */ (target).closest("[data-node]");
    const look = this.looked();
    if (!node || !look) return;
    const name = node.getAttribute("data-node");
    this.onPin(look.round.index, name === "own" ? null : Number(name));
  }
  walk(event) {
    const all = [.../** @type {NodeListOf<SVGElement>} */ (this.sheet.querySelectorAll("[data-node]"))];
    const at = all.indexOf(event.target);
    if (at < 0) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.choose(event.target);
      return;
    }
    const way = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const next = way && all[at + way];
    if (!next) return;
    event.preventDefault();
    all[at].setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  }

  setDecoding(decoding) {
    this.decoding = decoding;
    this.pin = null;
  }
  grow(decoding) {
    this.decoding = decoding;
  }
  setMoment() {
    this.draw();
  }
  setPinned({ pin }) {
    this.pin = pin;
    this.draw();
  }

  draw() {
    const look = this.looked();
    this.curve.style.display = "none";
    if (!look || !look.round) {
      this.heading.textContent = "";
      this.sheet.replaceChildren();
      return;
    }
    this.heading.textContent = this.words(look);
    if (look.round.floors.length) this.drawFloors(look);
    else this.drawTree(look);
    if (look.round.checks.length) this.drawCurve(look);
    const first = this.sheet.querySelector(".sk-node-pinned[data-node], [data-node]");
    if (first) first.setAttribute("tabindex", "0");
    this.reveal();
  }
  /* Where a round is wider than its box (a phone), the box shows the chosen token, or else how the round ended. */
  reveal() {
    const { box, sheet } = this;
    const node = sheet.querySelector(".sk-node-pinned") || sheet.querySelector(".sk-node-own");
    if (!node || (box.scrollWidth <= box.clientWidth && box.scrollHeight <= box.clientHeight)) return;
    const [seen, wanted] = [box.getBoundingClientRect(), node.getBoundingClientRect()];
    if (wanted.right > seen.right) box.scrollLeft += wanted.right - seen.right + BOX.left;
    if (wanted.left < seen.left) box.scrollLeft -= seen.left - wanted.left + BOX.left;
    if (wanted.bottom > seen.bottom) box.scrollTop += wanted.bottom - seen.bottom + BOX.top;
    if (wanted.top < seen.top) box.scrollTop -= seen.top - wanted.top + BOX.top;
  }
  words({ round, judged }) {
    const said = { n: round.index + 1, drafted: round.nodes.length, passed: round.path.length };
    if (!round.nodes.length) return tr("Round {n}: nothing drafted, the teacher writes one token", said);
    if (!judged) return tr("Round {n}: the draft proposes", said);
    return tr("Round {n}: {drafted} drafted, {passed} accepted, {added} added to the text", {
      ...said,
      added: round.output.length,
    });
  }
  resize(places) {
    const wide = Math.max(...places.map((place) => place.x)) + BOX.wide + BOX.left;
    const high = Math.max(...places.map((place) => place.y)) + BOX.high + BOX.top;
    this.sheet.setAttribute("width", String(wide));
    this.sheet.setAttribute("height", String(high));
    this.sheet.setAttribute("viewBox", `0 0 ${wide} ${high}`);
  }
  about(round, node) {
    const pin = this.pinned(round);
    const name = node === null ? "own" : String(node);
    return {
      role: "button",
      tabindex: "-1",
      "data-node": name,
      "aria-label": SpecKD.spokenDraft(this.decoding, round, node),
      "aria-pressed": pin === name ? "true" : "false",
    };
  }
  pinned(round) {
    const pin = this.pin;
    return pin && pin.round === round.index ? (pin.node === null ? "own" : String(pin.node)) : "";
  }
  drafted(place, round, i, judged) {
    const node = round.nodes[i];
    const look = judged ? `sk-node-${node.verdict}` : "sk-node-waiting";
    const chosen = this.pinned(round) === String(i) ? " sk-node-pinned" : "";
    const marks = judged ? [...barNodes(node), markNode(node.verdict)] : [];
    return token(place, this.decoding.text(node.token), look + chosen, this.about(round, i), ...marks);
  }
  own(place, round) {
    const chosen = this.pinned(round) === "own" ? " sk-node-pinned" : "";
    const kind = svg("text", { class: "sk-node-kind", x: 8, y: 34, text: SpecKD.lastWord(round.kind) });
    return token(place, this.decoding.text(round.own), "sk-node-own" + chosen, this.about(round, null), kind);
  }

  drawTree({ round, drafted, judged }) {
    const places = layOut(round);
    const root = places.get(-1);
    const before = round.start > 0 ? this.decoding.rounds[round.index - 1].output.at(-1) : null;
    const text = before === null ? tr("the question") : this.decoding.text(before);
    const lines = [];
    const boxes = [token(root, text, "sk-node-root")];
    round.nodes.forEach((node, i) => {
      if (i >= drafted && !judged) return;
      const strong = judged && round.path.includes(i);
      lines.push(link(places.get(node.parent), places.get(i), `sk-edge${strong ? " sk-edge-strong" : ""}`));
      boxes.push(this.drafted(places.get(i), round, i, judged));
    });
    if (judged && round.own !== null) {
      const end = round.path.length ? round.path[round.path.length - 1] : -1;
      lines.push(link(places.get(end), places.get("own"), "sk-edge sk-edge-own"));
      boxes.push(this.own(places.get("own"), round));
    }
    this.resize([...places.values()]);
    this.sheet.replaceChildren(...lines, ...boxes);
  }

  /* Three floors, the lowest below: the early exit drafts, the later one verifies, the whole model has the last word.
   */
  drawFloors({ round, judged }) {
    const [low, middle] = this.decoding.facts ? this.decoding.facts.floors : [null, null];
    const names = [
      tr("the whole teacher"),
      tr("exit after layer {n} verifies", { n: middle ?? "" }),
      tr("exit after layer {n} drafts", { n: low ?? "" }),
    ];
    const at = (column, floor) => ({ x: xOf(column), y: 18 + floor * (BOX.row + 16) });
    const told = names.map((text, floor) =>
      svg("text", { class: "sk-floor-name", x: BOX.left, y: 12 + floor * (BOX.row + 16), text })
    );
    /** @type {SVGElement[]} */
    const nodes = [];
    let column = 0;
    const places = [at(0, 2)];
    for (const floor of round.floors) {
      floor.drafted.forEach((id, i) => {
        const passed = i < floor.accepted;
        const verdict = passed ? "accepted" : i === floor.accepted ? "rejected" : "unseen";
        const place = at(column + i, 2);
        places.push(place);
        nodes.push(token(place, this.decoding.text(id), `sk-node-${verdict}`, {}, markNode(verdict)));
        if (passed) nodes.push(this.rise(place, at(column + i, 1)));
      });
      for (let i = 0; i < floor.accepted; i++) {
        nodes.push(token(at(column + i, 1), this.decoding.text(floor.drafted[i]), "sk-node-accepted"));
      }
      const own = at(column + floor.accepted, 1);
      nodes.push(token(own, this.decoding.text(floor.middle), "sk-node-waiting"));
      column += floor.accepted + 1;
    }
    round.nodes.forEach((node, i) => {
      const place = at(i, 0);
      places.push(place);
      nodes.push(this.drafted(place, round, i, judged));
      if (judged && node.verdict === "accepted") nodes.push(this.rise(at(i, 1), place));
    });
    if (judged && round.own !== null) {
      // In the column where the drafts ended or failed; a failed one stands beside it.
      const place = at(round.path.length < round.nodes.length ? round.nodes.length : round.path.length, 0);
      places.push(place);
      nodes.push(this.own(place, round));
    }
    this.resize(places);
    this.sheet.replaceChildren(...nodes, ...told);
  }
  rise(from, to) {
    const x = from.x + BOX.wide / 2;
    return svg("line", { class: "sk-edge sk-edge-strong", x1: x, x2: x, y1: from.y, y2: to.y + BOX.high });
  }

  /* logsumexp of the beams' path log-probabilities, step by step, and the threshold below which the tree stops. */
  drawCurve({ round }) {
    const { curve } = this;
    const threshold = this.decoding.facts ? this.decoding.facts.threshold : null;
    const values = round.checks.map(([, value]) => value);
    const low = Math.min(...values, threshold ?? 0) * 1.1 - 0.1;
    const steps = Math.max(...round.checks.map(([step]) => step), 2);
    const x = (step) => 40 + ((step - 1) / (steps - 1)) * 190;
    const y = (value) => 12 + (value / low) * 56;
    const points = round.checks.map(([step, value]) => `${x(step)},${y(value)}`).join(" ");
    const label = (atX, atY, text, anchor = "end") =>
      svg("text", { class: "sk-curve-text", x: atX, y: atY, "text-anchor": anchor, text });
    const nodes = [
      label(34, y(0) + 4, "0"),
      svg("line", { class: "sk-curve-axis", x1: 40, x2: 230, y1: y(0), y2: y(0) }),
      svg("polyline", { class: "sk-curve-line", points }),
      ...round.checks.map(([step, value]) =>
        svg("circle", { class: "sk-curve-dot", cx: x(step), cy: y(value), r: 3.5 })
      ),
      ...round.checks.map(([step]) => label(x(step), 84, String(step), "middle")),
      label(230, 94, tr("step of the draft"), "end"),
    ];
    if (threshold !== null) {
      const line = { class: "sk-curve-threshold", x1: 40, x2: 230, y1: y(threshold), y2: y(threshold) };
      nodes.push(svg("line", line), label(34, y(threshold) + 4, SpecKD.number(threshold)));
    }
    curve.style.display = "";
    const last = values[values.length - 1];
    const said = { value: SpecKD.figures(last), threshold: SpecKD.number(threshold) };
    curve.setAttribute(
      "aria-label",
      threshold !== null && last < threshold
        ? tr("The beams’ probability, logsumexp {value}, fell below {threshold}: the tree stops here", said)
        : tr("The beams’ probability, logsumexp {value}, against the threshold {threshold}", said),
    );
    curve.replaceChildren(svg("title", { text: curve.getAttribute("aria-label") }), ...nodes);
  }
}

SpecKD.createDecodeStage = (root, options) => new DecodeStage(root, options);
