"""Fields of one text under a gate: the step's knobs, the text as a whole, one token, selectors, speed."""

import math
from dataclasses import replace
from typing import Any

from app.lessons.facts import TraceFacts, trace_facts
from app.lessons.scene import Scene, a_field
from app.lessons.values import Value, count, measured, nats, number, ordinal, ratio, share, word
from app.lessons.values import token as token_

# --- the step's own settings --------------------------------------------------------------------------------------


@a_field
def k(s: Scene) -> Value:
    return count(s.knobs["k"])


@a_field
def beta(s: Scene) -> Value:
    return ratio(s.knobs["beta"])


@a_field
def gate(s: Scene) -> Value:
    return word(s.name(f"gate.{s.knobs['gate']}"))


@a_field
def name_(s: Scene, key: str) -> Value:
    """A word of the table."""
    return word(s.name(key))


@a_field
def setting(s: Scene, name: str) -> Value:
    """Any other number of the step's state block."""
    return ratio(float(s.settings[name]))


# --- one text under a gate ----------------------------------------------------------------------------------------


@a_field
def n(s: Scene) -> Value:
    return count(s.text.n)


@a_field
def vocabulary(s: Scene) -> Value:
    return count(int(s.text.trace.config["vocabulary_size"]))


@a_field
def prompt(s: Scene) -> Value:
    return token_(s.text.trace.prompt)


def facts_of(s: Scene, text: str | None) -> TraceFacts:
    """The step's trace, or another shipped one."""
    return trace_facts(text) if text else s.text


@a_field
def tar(s: Scene, text: str | None = None) -> Value:
    """The share of the step's text that the gate accepts, or of another shipped one."""
    return share(facts_of(s, text).tar(s.knobs))


@a_field
def temperature(s: Scene, text: str | None = None) -> Value:
    return ratio(float(facts_of(s, text).trace.config["temperature"]))


@a_field
def accepted(s: Scene) -> Value:
    return count(sum(s.text.accepted(s.knobs)))


@a_field
def rejected(s: Scene) -> Value:
    return count(s.text.n - sum(s.text.accepted(s.knobs)))


@a_field
def loss(s: Scene) -> Value:
    """The gated loss of the text."""
    return _in_unit(s.text.loss(s.knobs), s)


@a_field
def plain(s: Scene) -> Value:
    """The loss of plain distillation."""
    return _in_unit(s.text.plain_loss(s.knobs["divergence"]), s)


@a_field
def masked(s: Scene) -> Value:
    """The share of the plain loss that the gate takes away."""
    return share(1 - s.text.loss(s.knobs) / s.text.plain_loss(s.knobs["divergence"]))


@a_field
def divergence_share(s: Scene, top: int) -> Value:
    """The share of the plain loss in its largest tokens."""
    values = sorted(s.text.divergence(s.knobs["divergence"]), reverse=True)
    return share(sum(values[:top]) / sum(values))


@a_field
def half_in(s: Scene) -> Value:
    """How many tokens, the largest first, it takes to hold half of the plain loss."""
    values = sorted(s.text.divergence(s.knobs["divergence"]), reverse=True)
    total, taken = 0.0, 0
    while total < sum(values) / 2:
        total += values[taken]
        taken += 1
    return count(taken)


@a_field
def blend(s: Scene) -> Value:
    """The gated loss at another beta, from its ends: 1 - beta of the hard mask's plus beta of the plain one."""
    beta = s.knobs["beta"]
    hard, open_ = s.text.loss({**s.knobs, "beta": 0.0}), s.text.plain_loss(s.knobs["divergence"])
    return _in_unit((1 - beta) * hard + beta * open_, s)


@a_field
def multiple(s: Scene, of: float) -> Value:
    """A multiple of the step's gated loss: a wrong answer to choose."""
    return _in_unit(of * s.text.loss(s.knobs), s)


@a_field
def tar_gain(s: Scene, since: int, until: int) -> Value:
    """How much TAR grows between two k."""
    return number(
        s.text.tar({**s.knobs, "k": until}) - s.text.tar({**s.knobs, "k": since}), "points", signed=True, unit=True
    )


@a_field
def mean_(s: Scene, of: str, which: str = "all", text: str | None = None) -> Value:
    """The mean of a column over all, the accepted or the rejected tokens."""
    if text is not None:
        s = replace(s, trace=trace_facts(text))
    values = _column(s, of)
    kept = s.text.accepted(s.knobs)
    chosen = [v for v, ok in zip(values, kept, strict=True) if which == "all" or ok == (which == "accepted")]
    mean = sum(chosen) / len(chosen) if chosen else math.nan
    return nats(mean) if of.endswith("entropy") or of == "divergence" else share(mean)


def _column(s: Scene, of: str) -> list[float]:
    if of == "divergence":
        return s.text.divergence(s.knobs["divergence"])
    if of == "acceptance":
        return [1 - tvd for tvd in s.text.divergence("tvd")]
    return s.text.columns[of]


def _in_unit(value: float, s: Scene) -> Value:
    return measured(value) if s.knobs["divergence"] == "tvd" else nats(value)


# --- one token ----------------------------------------------------------------------------------------------------


@a_field
def place(s: Scene, at: Any = None) -> Value:
    return count(s.place(at) + 1)


@a_field
def token(s: Scene, at: Any = None) -> Value:
    t = s.place(at)
    return token_(s.text.trace.tokens[t], t + 1)


@a_field
def proposal(s: Scene, at: Any = None) -> Value:
    return token_(s.text.text_of(s.text.columns["proposal_ids"][s.place(at)]))


@a_field
def favourite(s: Scene, at: Any = None, place: int = 1) -> Value:
    """The teacher's likeliest token, or the one at another place of its list."""
    return token_(s.text.text_of(s.text.columns["teacher_top"]["ids"][s.place(at)][place - 1]))


@a_field
def rank(s: Scene, at: Any = None) -> Value:
    """The proposal's place in the teacher's order."""
    return ordinal(s.text.columns["topk_threshold"][s.place(at)])


@a_field
def smallest_k(s: Scene, at: Any = None) -> Value:
    """The k from which on Top-k accepts the token: its proposal's rank."""
    return count(s.text.columns["topk_threshold"][s.place(at)])


@a_field
def draw(s: Scene, at: Any = None) -> Value:
    """The first draw that passes."""
    return ordinal(s.text.columns["speck_threshold"][s.place(at)])


@a_field
def verdict(s: Scene, at: Any = None) -> Value:
    return word(s.name("accepted" if s.text.accepted(s.knobs)[s.place(at)] else "rejected"))


@a_field
def weight(s: Scene, at: Any = None) -> Value:
    return ratio(float(s.text.trace.weights(s.text.gate(s.knobs))[s.place(at)]))


@a_field
def p(s: Scene, at: Any = None, of: str = "proposal", place: int = 1) -> Value:
    """The teacher's probability of the proposal, of the text's own token, or of its favourite at a place."""
    t = s.place(at)
    if of == "favourite":
        return share(s.text.columns["teacher_top"]["prob"][t][place - 1])
    return share(s.text.columns[f"{of}_teacher_prob"][t])


@a_field
def q(s: Scene, at: Any = None, of: str = "proposal") -> Value:
    """The student's probability of the proposal, of the text's own token, or of the teacher's favourite."""
    t = s.place(at)
    if of == "favourite":
        return share(s.text.columns["teacher_top"]["other_prob"][t][0])
    return share(s.text.columns[f"{of}_student_prob"][t])


@a_field
def outside(s: Scene, at: Any = None) -> Value:
    """What the teacher gives to all tokens beyond its ten likeliest."""
    return share(1 - sum(s.text.columns["teacher_top"]["prob"][s.place(at)]))


@a_field
def entropy(s: Scene, at: Any = None, of: str = "teacher") -> Value:
    return nats(s.text.columns[f"{of}_entropy"][s.place(at)])


@a_field
def as_many(s: Scene, at: Any = None, of: str = "teacher") -> Value:
    """e to the entropy: how many equally likely tokens would be as unsure."""
    return measured(math.exp(s.text.columns[f"{of}_entropy"][s.place(at)]))


@a_field
def divergence(s: Scene, at: Any = None) -> Value:
    return _in_unit(s.text.divergence(s.knobs["divergence"])[s.place(at)], s)


@a_field
def share_(s: Scene, at: Any = None) -> Value:
    """The token's share of the plain loss."""
    values = s.text.divergence(s.knobs["divergence"])
    return share(values[s.place(at)] / sum(values))


@a_field
def tvd(s: Scene, at: Any = None) -> Value:
    return measured(s.text.divergence("tvd")[s.place(at)])


@a_field
def passes(s: Scene, at: Any = None, draws: int = 1) -> Value:
    """The chance that at least one of so many random draws passes: 1 - TVD to the power of the draws."""
    return share(1 - s.text.divergence("tvd")[s.place(at)] ** draws)


@a_field
def fails(s: Scene, at: Any = None, draws: int = 1) -> Value:
    """The chance that all of so many random draws fail: TVD to the power of the draws."""
    return share(s.text.divergence("tvd")[s.place(at)] ** draws)


@a_field
def proposal_passes(s: Scene, at: Any = None) -> Value:
    """min(1, p/q) of the proposal itself."""
    return share(s.text.columns["proposal_acceptance"][s.place(at)])


@a_field
def proposal_fails(s: Scene, at: Any = None) -> Value:
    return share(1 - s.text.columns["proposal_acceptance"][s.place(at)])


@a_field
def greedy(s: Scene) -> Value:
    """The share of tokens where student and teacher have the same first choice."""
    c = s.text.columns
    same = [mine == top[0] for mine, top in zip(c["proposal_ids"], c["teacher_top"]["ids"], strict=True)]
    return share(sum(same) / s.text.n)


@a_field
def drawn(s: Scene, at: Any = None, draw: int = 1) -> Value:
    return token_(s.text.text_of(s.text.columns["draws"]["ids"][s.place(at)][draw - 1]))


@a_field
def bar(s: Scene, at: Any = None, draw: int = 1) -> Value:
    return measured(s.text.columns["draws"]["acceptance"][s.place(at)][draw - 1])


@a_field
def coin(s: Scene, at: Any = None, draw: int = 1) -> Value:
    return measured(s.text.columns["draws"]["coin"][s.place(at)][draw - 1])


@a_field
def own_rank(s: Scene, at: Any = None) -> Value:
    """The place of the text's own token in the teacher's order."""
    return ordinal(s.text.columns["token_teacher_rank"][s.place(at)])


@a_field
def selector_rank(s: Scene, selector: str, at: Any = None) -> Value:
    """The token's place under another selector."""
    return ordinal(s.text.columns["ranks"][selector][s.place(at)])


@a_field
def other_verdict(s: Scene, selector: str, at: Any = None) -> Value:
    """Whether another selector keeps the token within the gate's budget."""
    return word(s.name("kept" if s.text.kept(selector, s.knobs)[s.place(at)] else "dropped"))


# --- selectors against the gate -----------------------------------------------------------------------------------


@a_field
def jaccard(s: Scene, selector: str) -> Value:
    """Tokens kept by both, over tokens kept by either, at the gate's budget."""
    gate, other = s.text.accepted(s.knobs), s.text.kept(selector, s.knobs)
    both = sum(a and b for a, b in zip(gate, other, strict=True))
    either = sum(a or b for a, b in zip(gate, other, strict=True))
    return measured(both / either if either else 1.0)


@a_field
def chance_jaccard(s: Scene) -> Value:
    """What two random choices of the gate's budget agree to, about: m / (2n - m)."""
    m = s.text.budget(s.knobs)
    return measured(m / (2 * s.text.n - m))


@a_field
def kept_share(s: Scene, selector: str) -> Value:
    """The share of the plain loss in the tokens that a selector keeps."""
    values = s.text.divergence(s.knobs["divergence"])
    kept = s.text.kept(selector, s.knobs)
    return share(sum(v for v, ok in zip(values, kept, strict=True) if ok) / sum(values))


@a_field
def selector(s: Scene, name: str) -> Value:
    return word(s.name(f"selector.{name}"))
