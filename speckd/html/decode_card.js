/* One token of a round: the draft's list and the teacher's (the two lists of Inspect's verdict), its bar and its coin;
   of a resampled token also what it was drawn from, the part of p above q. */

const { el, svg, shown, percent, tr } = SpecKD;
const COIN = { high: 30, bar: 12 };

/* The lists at one place of a round, in the form of a trace of one token. `node` is null for the teacher's own. */
function asTrace(decoding, round, node) {
  const place = decoding.placeOf(round, node);
  const theirs = place === null ? null : round.teacherTop[place];
  if (!theirs) return null;
  const drafts = round.draftTop[place] || [];
  const rank = (list, token) => {
    const at = list.findIndex(([one]) => one === token);
    return at < 0 ? null : at + 1;
  };
  const token = node === null ? -1 : round.nodes[node].token;
  const found = node === null ? 1 : rank(theirs, token);
  return {
    strings: decoding.strings,
    student_top: {
      ids: [drafts.map(([one]) => one)],
      prob: [drafts.map(([, , q]) => q)],
      other_prob: [drafts.map(([, p]) => p)],
      other_rank: [drafts.map(([one]) => rank(theirs, one))],
    },
    teacher_top: {
      ids: [theirs.map(([one]) => one)],
      prob: [theirs.map(([, p]) => p)],
      other_prob: [theirs.map(([, , q]) => q)],
      other_rank: [theirs.map(([one]) => rank(drafts, one))],
    },
    proposal_ids: [token],
    topk_threshold: [found === null ? theirs.length + 1 : found],
    beyond: found === null ? theirs.length : null,
    proposal_teacher_prob: [node === null ? null : round.nodes[node].p],
  };
}

class DecodeCard {
  constructor(root) {
    this.decoding = null;
    this.shownAt = null; // [round, node]
    this.where = el("span", { class: "sk-small sk-muted" });
    this.heading = el("h2", { class: "sk-verdict-heading", "aria-live": "polite" });
    this.coin = svg("svg", { class: "sk-card-coin", height: COIN.high, role: "img" });
    this.reason = el("p", { class: "sk-card-reason sk-small" });
    this.picture = svg("svg", { class: "sk-picture", role: "group" });
    this.leftover = el("div", { class: "sk-card-leftover" });
    this.element = el(
      "section",
      { class: "sk-verdict sk-card", "aria-label": tr("One token of a round") },
      el("div", { class: "sk-verdict-title" }, this.where, this.heading),
      this.coin,
      this.reason,
      this.picture,
      this.leftover,
    );
    root.append(this.element);
    this.ruler = document.createElement("canvas").getContext("2d");
    this.short = this.short.bind(this);
    this.width = 0;
    this.observer = new ResizeObserver(() => {
      if (this.shownAt && Math.abs(this.element.clientWidth - this.width) > 2) this.show(...this.shownAt);
    });
    this.observer.observe(this.element);
  }
  short(text, room, twins = new Set()) {
    return SpecKD.shortened(this.ruler, this.element, text, room, twins);
  }

  setDecoding(decoding) {
    this.decoding = decoding;
    this.shownAt = null;
    this.element.classList.add("sk-card-empty");
  }
  setMoment({ decoding, moment, pin }) {
    if (pin) return;
    const { round, judged, drafted } = decoding.at(moment);
    if (!round) return;
    if (judged) this.show(round, round.own === null ? round.nodes.length - 1 : null);
    else if (drafted) this.show(round, drafted - 1);
  }
  setPinned({ decoding, pin }) {
    if (pin) this.show(decoding.rounds[pin.round], pin.node);
  }

  show(round, node) {
    const { decoding } = this;
    this.shownAt = [round, node];
    this.element.classList.remove("sk-card-empty");
    this.width = this.element.clientWidth;
    const one = node === null ? null : round.nodes[node];
    const text = decoding.text(one ? one.token : round.own);
    const many = { n: round.index + 1, all: decoding.rounds.length };
    this.where.textContent = tr("round {n} of {all}", many);
    const word = one ? SpecKD.verdictWord(one.verdict) : SpecKD.lastWord(round.kind);
    const mark = one ? SpecKD.VERDICT_MARKS[one.verdict] + " " : "";
    this.heading.replaceChildren(
      el("bdi", { class: "sk-quote", text: shown(text) }),
      el("span", { class: `sk-chip sk-chip-${one ? one.verdict : "own"}`, text: mark + word }),
    );
    this.drawCoin(one);
    this.reason.textContent = this.says(round, one);
    this.drawLists(round, node);
    this.drawLeftover(round, one);
  }

  /* Bar and coin, as wide as the card. */
  drawCoin(one) {
    this.coin.style.display = one ? "" : "none";
    if (!one) return;
    const width = Math.max(200, this.width || 320);
    const at = (share) => (share * width).toFixed(1);
    /** @type {SVGElement[]} */
    const nodes = [
      svg("rect", { class: "sk-node-slot", x: 0, y: 8, width, height: COIN.bar, rx: 3 }),
      svg("rect", { class: "sk-node-fill", x: 0, y: 8, width: at(one.acceptance), height: COIN.bar, rx: 3 }),
    ];
    if (one.coin !== null) {
      nodes.push(svg("line", { class: "sk-node-coin", x1: at(one.coin), x2: at(one.coin), y1: 2, y2: 26 }));
    }
    this.coin.setAttribute("viewBox", `0 0 ${width} ${COIN.high}`);
    this.coin.setAttribute("aria-label", tr("passes with {chance}", { chance: percent(one.acceptance) }));
    this.coin.replaceChildren(...nodes);
  }
  says(round, one) {
    const { config } = this.decoding;
    if (!one) return tr(speckdWords.lasts[round.kind].says);
    const said = { q: percent(one.q), p: percent(one.p), chance: percent(one.acceptance) };
    const lossy = config.lenience < 1;
    const e = config.lenience;
    const lists = lossy && config.do_sample
      ? tr("The draft gives it {q}, the teacher {p}: with lenience {e}, min(1, p/(e q)) is {chance}.", { ...said, e })
      : tr("The draft gives it {q}, the teacher {p}: min(1, p/q) is {chance}.", said);
    if (one.verdict === "unseen") return lists + " " + tr("Nobody looked: something before it failed.");
    if (!config.do_sample && lossy) {
      return lists + " " + tr("Lossy: it passes where p is at least {e} of the teacher’s first choice’s.", { e });
    }
    if (!config.do_sample) return lists + " " + tr("Greedy: it passes where it is the teacher’s first choice.");
    if (one.coin === null) return lists;
    const coin = SpecKD.figures(one.coin);
    return lists + " " +
      (one.verdict === "accepted"
        ? tr("Its coin fell at {coin}, below: accepted.", { coin })
        : tr("Its coin fell at {coin}, not below: rejected.", { coin }));
  }

  drawLists(round, node) {
    const trace = asTrace(this.decoding, round, node);
    this.picture.style.display = trace ? "" : "none";
    if (!trace) return;
    const width = Math.max(260, this.picture.clientWidth || this.width || 340);
    const drafted = trace.student_top.ids[0].length > 0;
    const heads = [drafted ? tr("draft proposes") : tr("nothing drafted here"), tr("teacher would say")];
    const drawn = SpecKD.drawLists(trace, 0, { width, live: false, short: this.short, heads });
    const { nodes, shape, zone, boundary, strong, badge } = drawn;
    const accepted = node !== null && round.nodes[node].verdict === "accepted";
    const greedy = !this.decoding.config.do_sample;
    const judged = node !== null && round.nodes[node].verdict !== "unseen";
    // Greedy decoding is the gate Top-1: the boundary lies under the teacher's first row.
    boundary.style.transform = `translateY(${shape.top + shape.row}px)`;
    boundary.style.display = zone.style.display = greedy && node !== null ? "" : "none";
    zone.setAttribute("height", String(shape.row));
    boundary.querySelector("text").textContent = "k = 1";
    strong.style.display = node === null ? "none" : "";
    strong.setAttribute("stroke-dasharray", accepted ? "none" : "6 5");
    badge.style.display = judged ? "" : "none";
    this.picture.classList.toggle("sk-is-accepted", accepted);
    this.picture.classList.toggle("sk-is-rejected", !accepted);
    this.picture.setAttribute("viewBox", `0 0 ${width} ${shape.height}`);
    this.picture.setAttribute("height", String(shape.height));
    this.picture.setAttribute("aria-label", tr("The draft’s likeliest tokens and the teacher’s"));
    this.picture.replaceChildren(...nodes);
  }
  drawLeftover(round, one) {
    const rows = one === null ? round.leftover : [];
    this.leftover.hidden = !rows.length;
    if (!rows.length) return;
    const widest = rows[0][1];
    this.leftover.replaceChildren(
      el("h3", { class: "sk-small", text: tr("Drawn from the part of p above q") }),
      ...rows.slice(0, 6).map(([token, weight]) =>
        el(
          "div",
          { class: `sk-leftover${token === round.own ? " sk-leftover-own" : ""}` },
          el("bdi", { class: "sk-leftover-word", text: shown(this.decoding.text(token)) }),
          el("span", { class: "sk-leftover-bar", style: `width: ${((100 * weight) / widest).toFixed(1)}%` }),
          el("span", { class: "sk-leftover-share sk-muted", text: percent(weight) }),
        )
      ),
    );
  }
  destroy() {
    this.observer.disconnect();
  }
}

SpecKD.createDecodeCard = (root) => new DecodeCard(root);
