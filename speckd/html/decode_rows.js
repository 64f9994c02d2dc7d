/* Rounds as rows. Left, the round's time, draft and verification, over the time that plain decoding takes for the same
   tokens; right, the drafted tokens, each with its bar min(1, p/q) and its coin, the teacher's mark on each, and the
   teacher's own token. All tokens are one tab stop: arrows walk them. */

const { el, shown, tr } = SpecKD;

/* A drafted token, or the teacher's own (node null). */
function chip(decoding, round, node) {
  if (node === null) {
    const about = { class: `sk-draft sk-own sk-own-${round.kind}`, "data-round": round.index, "data-node": "own" };
    return el(
      "button",
      { type: "button", tabindex: "-1", "aria-label": spoken(decoding, round, null), ...about },
      el("bdi", { class: "sk-draft-word", text: shown(decoding.text(round.own)) }),
      el("small", { class: "sk-draft-kind", text: SpecKD.lastWord(round.kind) }),
    );
  }
  const one = round.nodes[node];
  const coin = one.coin === null || one.coin === undefined
    ? null
    : el("span", { class: "sk-draft-coin", style: `left: ${100 * one.coin}%` });
  const fill = el("span", { class: "sk-draft-fill", style: `width: ${100 * one.acceptance}%` });
  return el(
    "button",
    {
      type: "button",
      tabindex: "-1",
      class: `sk-draft sk-draft-${one.verdict}`,
      "data-round": round.index,
      "data-node": node,
      "aria-label": spoken(decoding, round, node),
    },
    el("span", { class: "sk-draft-mark", "aria-hidden": "true", text: SpecKD.VERDICT_MARKS[one.verdict] }),
    el("bdi", { class: "sk-draft-word", text: shown(decoding.text(one.token)) }),
    el("span", { class: "sk-draft-bar", "aria-hidden": "true" }, fill, coin),
  );
}

function spoken(decoding, round, node) {
  const n = round.index + 1;
  if (node === null) {
    const said = { word: SpecKD.spoken(decoding.text(round.own)), kind: SpecKD.lastWord(round.kind), n };
    return tr("Round {n}, the teacher’s token {word}: {kind}", said);
  }
  const one = round.nodes[node];
  const said = {
    n,
    word: SpecKD.spoken(decoding.text(one.token)),
    verdict: SpecKD.verdictWord(one.verdict),
    chance: SpecKD.percent(one.acceptance),
  };
  if (one.coin === null || one.coin === undefined) {
    return tr("Round {n}, drafted {word}: {verdict}; passes with {chance}", said);
  }
  const coin = SpecKD.figures(one.coin);
  return tr("Round {n}, drafted {word}: {verdict}; passes with {chance}, its coin fell at {coin}", { ...said, coin });
}
SpecKD.spokenDraft = spoken;

/* The nodes of a row: all of a chain; of a tree its accepted path and what failed after it. */
function rowNodes(round) {
  const chain = round.nodes.every((node, i) => node.parent === i - 1);
  if (chain) return { nodes: round.nodes.map((_, i) => i), left: 0 };
  const end = round.path.length ? round.path[round.path.length - 1] : -1;
  const failed = round.nodes.map((_, i) => i).filter((i) =>
    round.nodes[i].verdict === "rejected" &&
    round.nodes[i].parent === end
  );
  const nodes = [...round.path, ...failed];
  return { nodes, left: round.nodes.length - nodes.length };
}

class DecodeRows {
  constructor(root, { onPin = (_round, _node) => {} } = {}) {
    this.onPin = onPin;
    this.rows = [];
    this.current = null; // the token in the tab order
    this.element = el("ol", { class: "sk-rounds", "aria-label": tr("Rounds") });
    root.append(this.element);
    this.element.addEventListener("click", (event) => this.choose(this.chipOf(event.target)));
    this.element.addEventListener("keydown", (event) => this.walk(event));
  }

  chipOf(target) {
    return /** @type {HTMLElement | null} */ (/** @type {Element} */ (target).closest(".sk-draft"));
  }
  choose(node) {
    if (!node) return;
    this.focusable(node);
    this.onPin(Number(node.dataset.round), node.dataset.node === "own" ? null : Number(node.dataset.node));
  }
  focusable(node) {
    if (this.current) this.current.setAttribute("tabindex", "-1");
    this.current = node;
    node.setAttribute("tabindex", "0");
  }
  walk(event) {
    const node = this.chipOf(event.target);
    if (!node || event.altKey || event.ctrlKey || event.metaKey) return;
    const all = [.../** @type {NodeListOf<HTMLElement>} */ (this.element.querySelectorAll(".sk-draft"))];
    const at = all.indexOf(node);
    const line = Number(node.dataset.round);
    const first = (round) => all.find((one) => Number(one.dataset.round) === round);
    const next = {
      ArrowRight: all[at + 1],
      ArrowLeft: all[at - 1],
      ArrowDown: first(line + 1),
      ArrowUp: first(line - 1),
      Home: all[0],
      End: all[all.length - 1],
    };
    if (!(event.key in next)) return;
    event.preventDefault();
    const to = next[event.key];
    if (!to) return;
    this.focusable(to);
    to.focus();
  }

  setDecoding(decoding) {
    this.rows = [];
    this.current = null;
    this.element.replaceChildren();
    this.grow(decoding);
  }
  grow(decoding) {
    const token = decoding.facts && decoding.record.plain_seconds ? decoding.facts.token_seconds : null;
    const longest = Math.max(
      ...decoding.rounds.map((one) => Math.max(one.seconds, token ? token * one.output.length : 0)),
      1e-9,
    );
    for (const round of decoding.rounds.slice(this.rows.length)) this.rows.push(this.row(decoding, round));
    this.element.append(...this.rows.filter((row) => !row.isConnected));
    decoding.rounds.forEach((round, i) => this.clock(this.rows[i], round, token, 100 / longest));
    if (!this.current && this.element.querySelector(".sk-draft")) {
      this.focusable(this.element.querySelector(".sk-draft"));
    }
  }
  row(decoding, round) {
    const { nodes, left } = rowNodes(round);
    const chips = nodes.map((node) => chip(decoding, round, node));
    const more = left ? el("span", { class: "sk-small sk-muted", text: tr("and {n} other nodes", { n: left }) }) : null;
    return el(
      "li",
      { class: "sk-round", "data-round": round.index },
      el("span", { class: "sk-round-number sk-small sk-muted", text: String(round.index + 1) }),
      el("span", { class: "sk-round-clock" }),
      el(
        "span",
        { class: "sk-round-tokens" },
        ...chips,
        more,
        round.own === null ? null : chip(decoding, round, null),
        round.nearTie ? el("small", { class: "sk-muted", text: tr("near-tie") }) : null,
      ),
    );
  }
  clock(row, round, token, scale) {
    const bar = (kind, seconds) => el("span", { class: kind, style: `width: ${(seconds * scale).toFixed(2)}%` });
    const draft = round.nodes.length ? round.draft : 0;
    const ours = el("span", { class: "sk-round-ours" });
    if (draft) ours.append(bar("sk-round-draft", draft));
    ours.append(bar("sk-round-verify", round.seconds - draft));
    const plain = el("span", { class: "sk-round-plain" });
    if (token) { for (const _ of round.output) plain.append(bar("sk-round-token", token)); }
    const box = row.querySelector(".sk-round-clock");
    const seconds = (x) => SpecKD.figures(1000 * x, 2);
    const said = { draft: seconds(draft), verify: seconds(round.seconds - draft) };
    const words = token
      ? tr("drafted in {draft} ms, verified in {verify} ms; plain decoding takes {plain} ms for these tokens", {
        ...said,
        plain: seconds(token * round.output.length),
      })
      : tr("drafted in {draft} ms, verified in {verify} ms", said);
    box.title = words;
    box.replaceChildren(ours, plain, el("span", { class: "sk-hidden", text: words }));
  }

  setMoment({ decoding, moment }) {
    const now = decoding.at(moment);
    this.rows.forEach((row, i) => {
      const future = now.round !== null && (i > now.round.index || (i === now.round.index && !now.judged));
      row.classList.toggle("sk-future", future);
      row.classList.toggle("sk-now", now.round !== null && i === now.round.index);
    });
    const row = now.round && this.rows[now.round.index];
    if (row && moment < decoding.last) this.reveal(row);
  }
  setPinned({ pin }) {
    const before = this.element.querySelector(".sk-pinned");
    if (before) before.classList.remove("sk-pinned");
    if (!pin) return;
    const name = pin.node === null ? "own" : String(pin.node);
    const node = this.element.querySelector(`[data-round="${pin.round}"][data-node="${name}"]`);
    if (!node) return;
    node.classList.add("sk-pinned");
    this.reveal(this.rows[pin.round]);
  }
  /* Into view within the list alone: the page itself never jumps. */
  reveal(row) {
    const list = this.element;
    const top = row.offsetTop - list.offsetTop;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + row.offsetHeight > list.scrollTop + list.clientHeight) {
      list.scrollTop = top + row.offsetHeight - list.clientHeight;
    }
  }
}

SpecKD.createDecodeRows = (root, options) => new DecodeRows(root, options);
