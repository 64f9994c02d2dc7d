/* A decoding as a page knows it: the rounds of a record (types.d.ts), each with its nodes, its place on the clock and
   its moments. Nothing is computed here that Python computes; seconds are added up to know where to draw.

   A round of n drafted tokens has n + 1 moments: each token as it is drafted, then the teacher's verdict. */

const TELLING = { resampled: 3, bonus: 1, teacher: 0 };

const depthOf = (nodes, parent) => (parent < 0 ? 1 : nodes[parent].depth + 1);

function nodesOf(step) {
  const nodes = [];
  step.tokens.forEach((token, i) => {
    const parent = step.parents[i];
    nodes.push({
      token,
      parent,
      depth: depthOf(nodes, parent),
      q: step.draft_probs[i],
      p: step.teacher_probs[i],
      acceptance: step.acceptance[i],
      coin: step.coins[i],
      verdict: step.verdicts[i],
    });
  });
  return nodes;
}

class Decoding {
  constructor(config = null) {
    this.config = config;
    this.rounds = [];
    this.strings = {};
    this.tokens = 0;
    this.seconds = 0;
    this.last = 0; // the last moment
    this.facts = null;
    this.record = null;
  }

  add(step) {
    Object.assign(this.strings, step.strings || {});
    const nodes = nodesOf(step);
    const path = nodes.map((node, i) => ({ ...node, i })).filter((node) => node.verdict === "accepted");
    const own = step.output.length > path.length ? step.output[step.output.length - 1] : null;
    this.rounds.push({
      index: this.rounds.length,
      nodes,
      path: path.map((node) => node.i).slice(0, step.output.length),
      own, // the teacher's token; null where a drafted one ended the text
      kind: step.kind,
      start: step.start,
      output: step.output,
      began: this.seconds,
      draft: step.draft_seconds,
      verify: step.verify_seconds,
      seconds: step.draft_seconds + step.verify_seconds,
      first: this.last, // the moment before its first
      steps: step.steps,
      nearTie: step.near_tie,
      checks: step.checks,
      leftover: step.leftover,
      teacherTop: step.teacher_top,
      draftTop: step.draft_top,
      floors: step.floors,
    });
    this.seconds += step.draft_seconds + step.verify_seconds;
    this.tokens += step.output.length;
    this.last += nodes.length + 1;
    return this;
  }

  /* What a moment shows: the round, how many of its tokens are drafted, whether the teacher has spoken, the time. */
  at(moment) {
    const round = this.rounds.findLast((one) => one.first < moment) || this.rounds[0];
    if (!round) return { round: null, drafted: 0, judged: false, seconds: 0, tokens: 0 };
    const shown = Math.max(0, moment - round.first);
    const judged = shown > round.nodes.length;
    const drafted = Math.min(shown, round.nodes.length);
    const part = round.nodes.length ? drafted / round.nodes.length : 0;
    const seconds = round.began + (judged ? round.seconds : part * round.draft);
    return { round, drafted, judged, seconds, tokens: round.start + (judged ? round.output.length : 0) };
  }
  /* The moment at which a round is over. */
  end(round) {
    return round.first + round.nodes.length + 1;
  }
  /* Where in the lists of a round a node stands: 0 for the first drafted place; null where nobody looked. */
  placeOf(round, node) {
    if (node === null) return round.own === null ? null : round.path.length;
    const parent = round.nodes[node].parent;
    if (parent < 0) return 0;
    const place = round.path.indexOf(parent);
    return place < 0 ? null : place + 1;
  }
  /* Whether a pin names a token of this decoding: an address may be that of another. */
  has(pin) {
    const round = pin && this.rounds[pin.round];
    return Boolean(round) && (pin.node === null ? round.own !== null : pin.node < round.nodes.length);
  }
  text(token) {
    const text = this.strings[token];
    return text === undefined ? "#" + token : text;
  }
  /* The round that says most at a first look: one whose coin failed after some had passed, or the longest. */
  telling() {
    const worth = (round) => round.path.length + (round.path.length ? TELLING[round.kind] || 0 : 0);
    return this.rounds.reduce((best, round) => (best === null || worth(round) > worth(best) ? round : best), null);
  }
}

/* A finished record with its facts, both as JSON text or read. */
SpecKD.readDecoding = function (record, facts) {
  const read = (data) => (typeof data === "string" ? JSON.parse(data) : data);
  const data = read(record);
  const decoding = new Decoding(data.config);
  decoding.strings = { ...data.strings };
  for (const step of data.rounds) decoding.add(step);
  decoding.record = data;
  decoding.facts = read(facts);
  return decoding;
};
/* One that is under way: rounds are added as they come. */
SpecKD.newDecoding = (config) => new Decoding(config);

/* The parts that show one decoding, with the moment and the pinned token that they share. A part has any of
   setDecoding(decoding), grow(decoding), setMoment(state), setPinned(state). */
class DecodePicture {
  constructor({ onPin = (_state) => {}, onMoment = (_state) => {} } = {}) {
    this.onPin = onPin;
    this.onMoment = onMoment;
    this.parts = [];
    this.state = { decoding: null, moment: 0, pin: null };
  }
  add(part) {
    this.parts.push(part);
    return part;
  }
  each(method, ...args) {
    for (const part of this.parts) if (part[method]) part[method](...args);
  }
  show(decoding, { moment = decoding.last, pin = null } = {}) {
    Object.assign(this.state, { decoding, moment: Math.min(moment, decoding.last), pin });
    this.each("setDecoding", decoding);
    this.each("setMoment", this.state);
    this.each("setPinned", this.state);
  }
  /* Rounds were added to the decoding on screen. */
  grow() {
    this.state.moment = this.state.decoding.last;
    this.each("grow", this.state.decoding);
    this.each("setMoment", this.state);
  }
  /* What was pinned gives way to what moves. */
  go(moment) {
    const { state } = this;
    if (!state.decoding) return;
    state.moment = Math.max(0, Math.min(moment, state.decoding.last));
    if (state.pin) {
      state.pin = null;
      this.each("setPinned", state);
    }
    this.each("setMoment", state);
    this.onMoment(state);
  }
  /* A token of a round: a node, or null for the teacher's own. */
  pin(round, node) {
    this.state.pin = { round, node };
    this.each("setPinned", this.state);
    this.onPin(this.state);
  }
  /* The round that is looked at, and how much of it is to be seen. */
  looked() {
    const { decoding, moment, pin } = this.state;
    if (!decoding || !decoding.rounds.length) return null;
    if (pin) {
      const round = decoding.rounds[pin.round];
      return { round, drafted: round.nodes.length, judged: true, pinned: true };
    }
    return { ...decoding.at(moment), pinned: false };
  }
}
SpecKD.createDecodePicture = (options) => new DecodePicture(options);

/* Words that several parts use. */
SpecKD.verdictWord = (verdict) => SpecKD.tr(speckdWords.verdicts[verdict].label);
SpecKD.lastWord = (kind) => SpecKD.tr(speckdWords.lasts[kind].label);
SpecKD.VERDICT_MARKS = { accepted: "✓", rejected: "✕", unseen: "·" };
