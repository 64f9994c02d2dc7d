"""The numbers and tokens in a lesson's text: each is a field, computed from the trace or run that the step shows.

``{{tar k=5}}`` calls ``tar(scene, k=5)``. What a field does not say it takes from the step's own state: the gate, k,
beta, the divergence, and the pinned token. Numbers are written as the picture writes them (speckd/html/gate.js).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from app.lessons.facts import RANKINGS, RunFacts, TraceFacts, run_facts, seed_facts, trace_facts

GATES = {"topk": "Top-k", "speck": "Spec-k", "none": "All open"}
DIVERGENCES = {
    "forward_kl": "forward KL", "reverse_kl": "reverse KL", "jsd": "JSD", "skew_kl": "skew KL",
    "skew_reverse_kl": "skew reverse KL", "tvd": "total variation",
}  # fmt: skip
SELECTORS = {
    "gate": "the gate", "topk": "Top-k", "speck": "Spec-k", "adakd": "AdaKD", "student_entropy": "student entropy",
    "teacher_entropy_low": "teacher entropy, low", "teacher_entropy_high": "teacher entropy, high", "random": "random",
}  # fmt: skip
KNOBS = ("gate", "k", "beta", "divergence")


# --- numbers as the picture writes them ---------------------------------------------------------------------------


def _fixed(value: float, digits: int) -> str:
    """As JavaScript's toFixed: halves go up."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP))


def percent(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    p = 100 * value
    if p != 0 and abs(p) < 0.1:
        return "<0.1%"
    if 99.95 < p < 100:
        return ">99.9%"
    return (_fixed(p, 0) if p >= 9.95 or p == 0 else _fixed(p, 1)) + "%"


def number(value: float, digits: int = 3) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size == 0:
        return "0"
    if size < 0.0005:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e−{abs(int(exponent))}".replace("-", "−")
    if size >= 1000:
        return f"{int(_fixed(value, 0)):,}"
    return f"{float(f'{value:.{digits}g}'):g}".replace("-", "−")


def ordinal(n: int) -> str:
    suffix = "th" if 10 < n % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n:,}{suffix}"


@dataclass(frozen=True)
class Value:
    """What a field is worth.

    Attributes:
        text: as it is shown.
        number: to compare it by; None for a word.
        is_token: the text is a token, shown in quotes with its invisible signs by name.
    """

    text: str
    number: float | None = None
    is_token: bool = False


def share(value: float) -> Value:
    return Value(percent(value), value)


def nats(value: float) -> Value:
    return Value(f"{number(value)} nats", value)


def bare(value: float, digits: int = 3) -> Value:
    return Value(number(value, digits), value)


def whole(value: int) -> Value:
    return Value(f"{value:,}", value)


def word(text: str) -> Value:
    return Value(text)


def token_text(text: str) -> Value:
    return Value(text, is_token=True)


# --- what fields are computed from --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """What a step shows: its trace or run, its knobs, and its other settings by name."""

    trace: TraceFacts | None = None
    run: RunFacts | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def knobs(self) -> dict[str, Any]:
        return {name: self.settings[name] for name in KNOBS}

    def with_(self, **changes: Any) -> "Scene":
        return replace(self, settings={**self.settings, **{k: v for k, v in changes.items() if v is not None}})

    @property
    def text(self) -> TraceFacts:
        if self.trace is None:
            raise ValueError("this step shows no trace")
        return self.trace

    @property
    def race(self) -> RunFacts:
        if self.run is None:
            raise ValueError("this step shows no run")
        return self.run

    def place(self, at: Any = None) -> int:
        """The token (from 0) of a role; the step's pin without one."""
        return self.text.place(str(at or self.settings.get("pin") or "first"))


Field = Callable[..., Value]
FIELDS: dict[str, Field] = {}


def a_field(function: Field) -> Field:
    FIELDS[function.__name__.rstrip("_")] = function
    return function


def read_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """``name key=value ...`` as a name and arguments; whole and decimal numbers become numbers."""
    name, *rest = spec.split()
    arguments: dict[str, Any] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{{{{{spec}}}}}: {part!r} is not key=value")
        try:
            arguments[key] = int(value)
        except ValueError:
            try:
                arguments[key] = float(value)
            except ValueError:
                arguments[key] = value
    return name, arguments


def evaluate(spec: str, scene: Scene) -> Value:
    """The value of a field.

    Raises:
        ValueError: there is no such field, or it does not fit the step.
    """
    name, arguments = read_spec(spec)
    if name not in FIELDS:
        raise ValueError(f"There is no field {name!r}.")
    knobs = {key: arguments.pop(key) for key in KNOBS if key in arguments}
    try:
        return FIELDS[name](scene.with_(**knobs), **arguments)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"The field {{{{{spec}}}}} can't be filled: {type(error).__name__}: {error}.") from None


# --- the step's own settings --------------------------------------------------------------------------------------


@a_field
def k(s: Scene) -> Value:
    return whole(s.knobs["k"])


@a_field
def beta(s: Scene) -> Value:
    return bare(s.knobs["beta"])


@a_field
def gate(s: Scene) -> Value:
    return word(GATES[s.knobs["gate"]])


@a_field
def setting(s: Scene, name: str) -> Value:
    """Any other number of the step's state block."""
    return bare(float(s.settings[name]))


# --- one text under a gate ----------------------------------------------------------------------------------------


@a_field
def n(s: Scene) -> Value:
    return whole(s.text.n)


@a_field
def vocabulary(s: Scene) -> Value:
    return whole(int(s.text.trace.config["vocabulary_size"]))


@a_field
def prompt(s: Scene) -> Value:
    return token_text(s.text.trace.prompt)


@a_field
def tar(s: Scene) -> Value:
    return share(s.text.tar(s.knobs))


@a_field
def accepted(s: Scene) -> Value:
    return whole(sum(s.text.accepted(s.knobs)))


@a_field
def rejected(s: Scene) -> Value:
    return whole(s.text.n - sum(s.text.accepted(s.knobs)))


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
    total, count = 0.0, 0
    while total < sum(values) / 2:
        total += values[count]
        count += 1
    return whole(count)


@a_field
def mean_(s: Scene, of: str, which: str = "all") -> Value:
    """The mean of a column over all, the accepted or the rejected tokens."""
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
    return bare(value) if s.knobs["divergence"] == "tvd" else nats(value)


# --- one token ----------------------------------------------------------------------------------------------------


@a_field
def place(s: Scene, at: Any = None) -> Value:
    return whole(s.place(at) + 1)


@a_field
def token(s: Scene, at: Any = None) -> Value:
    return token_text(s.text.trace.tokens[s.place(at)])


@a_field
def proposal(s: Scene, at: Any = None) -> Value:
    return token_text(s.text.text_of(s.text.columns["proposal_ids"][s.place(at)]))


@a_field
def favourite(s: Scene, at: Any = None, place: int = 1) -> Value:
    """The teacher's likeliest token, or the one at another place of its list."""
    return token_text(s.text.text_of(s.text.columns["teacher_top"]["ids"][s.place(at)][place - 1]))


@a_field
def rank(s: Scene, at: Any = None) -> Value:
    """The proposal's place in the teacher's order."""
    value = s.text.columns["topk_threshold"][s.place(at)]
    return Value(ordinal(value), value)


@a_field
def draw(s: Scene, at: Any = None) -> Value:
    """The first draw that passes."""
    value = s.text.columns["speck_threshold"][s.place(at)]
    return Value(ordinal(value), value)


@a_field
def verdict(s: Scene, at: Any = None) -> Value:
    return word("accepted" if s.text.accepted(s.knobs)[s.place(at)] else "rejected")


@a_field
def weight(s: Scene, at: Any = None) -> Value:
    return bare(float(s.text.trace.weights(s.text.gate(s.knobs))[s.place(at)]))


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
    return bare(math.exp(s.text.columns[f"{of}_entropy"][s.place(at)]), 2)


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
    return bare(s.text.divergence("tvd")[s.place(at)])


@a_field
def passes(s: Scene, at: Any = None, draws: int = 1) -> Value:
    """The chance that at least one of so many random draws passes: 1 - TVD to the power of the draws."""
    return share(1 - s.text.divergence("tvd")[s.place(at)] ** draws)


@a_field
def proposal_passes(s: Scene, at: Any = None) -> Value:
    """min(1, p/q) of the proposal itself."""
    return share(s.text.columns["proposal_acceptance"][s.place(at)])


@a_field
def drawn(s: Scene, at: Any = None, draw: int = 1) -> Value:
    return token_text(s.text.text_of(s.text.columns["draws"]["ids"][s.place(at)][draw - 1]))


@a_field
def bar(s: Scene, at: Any = None, draw: int = 1) -> Value:
    return bare(s.text.columns["draws"]["acceptance"][s.place(at)][draw - 1])


@a_field
def coin(s: Scene, at: Any = None, draw: int = 1) -> Value:
    return bare(s.text.columns["draws"]["coin"][s.place(at)][draw - 1])


@a_field
def selector_rank(s: Scene, selector: str, at: Any = None) -> Value:
    """The token's place under another selector."""
    value = s.text.columns["ranks"][selector][s.place(at)]
    return Value(ordinal(value), value)


@a_field
def other_verdict(s: Scene, selector: str, at: Any = None) -> Value:
    """Whether another selector keeps the token within the gate's budget."""
    return word("kept" if s.text.kept(selector, s.knobs)[s.place(at)] else "dropped")


# --- selectors against the gate -----------------------------------------------------------------------------------


@a_field
def jaccard(s: Scene, selector: str) -> Value:
    """Tokens kept by both, over tokens kept by either, at the gate's budget."""
    gate, other = s.text.accepted(s.knobs), s.text.kept(selector, s.knobs)
    both = sum(a and b for a, b in zip(gate, other, strict=True))
    either = sum(a or b for a, b in zip(gate, other, strict=True))
    return bare(both / either if either else 1.0, 2)


@a_field
def chance_jaccard(s: Scene) -> Value:
    """What two random choices of the gate's budget agree to, about: m / (2n - m)."""
    m = s.text.budget(s.knobs)
    return bare(m / (2 * s.text.n - m), 2)


@a_field
def kept_share(s: Scene, selector: str) -> Value:
    """The share of the plain loss in the tokens that a selector keeps."""
    values = s.text.divergence(s.knobs["divergence"])
    kept = s.text.kept(selector, s.knobs)
    return share(sum(v for v, ok in zip(values, kept, strict=True) if ok) / sum(values))


@a_field
def selector(s: Scene, name: str) -> Value:
    return word(SELECTORS[name])


# --- from the gate to speed ---------------------------------------------------------------------------------------


def block_efficiency(a: float, draft: int) -> float:
    """Tokens a round when each drafted token is accepted with chance a: (1 - a^(g+1)) / (1 - a) (arXiv 2211.17192)."""
    return draft + 1.0 if a >= 1 else (1 - a ** (draft + 1)) / (1 - a)


def _acceptance(s: Scene, a: Any, text: str | None = None) -> float:
    """The chance that a drafted token is accepted: given, or the mean of 1 - TVD over a text."""
    if isinstance(a, int | float):
        return float(a)
    facts = trace_facts(text) if text else s.text
    values = [1 - value for value in facts.divergence("tvd")]
    return sum(values) / len(values)


@a_field
def acceptance(s: Scene, text: str | None = None) -> Value:
    """The mean chance of one draw over the step's text, or over another shipped one."""
    return share(_acceptance(s, None, text))


@a_field
def block(s: Scene, a: Any = None, draft: Any = None, text: str | None = None) -> Value:
    return bare(block_efficiency(_acceptance(s, a, text), int(draft or s.settings["draft"])))


@a_field
def speedup(s: Scene, a: Any = None, draft: Any = None, text: str | None = None) -> Value:
    """Block efficiency over the round's cost, c g + 1 (arXiv 2310.08461)."""
    g = int(draft or s.settings["draft"])
    faster = block_efficiency(_acceptance(s, a, text), g) / (float(s.settings["cost"]) * g + 1)
    return Value(f"{number(faster)}×", faster)


@a_field
def block_gain(s: Scene, since: float, until: float, draft: Any = None) -> Value:
    """How many more tokens a round when the chance rises."""
    g = int(draft or s.settings["draft"])
    return bare(block_efficiency(until, g) - block_efficiency(since, g))


# --- a run: the step's own, or another one by its name in ``recorded`` --------------------------------------------


def _quantity(quantity: str, value: float) -> Value:
    if quantity == "grad_norm":
        return bare(value)
    return share(value) if _is_share(quantity) else nats(value)


def _is_share(quantity: str) -> bool:
    return quantity in ("tar", "acceptance", "agreement", "masked_share", "rouge_l")


def _moved(quantity: str, value: float) -> Value:
    """A difference: shares in percentage points."""
    sign = "+" if value > 0 else ""
    if _is_share(quantity):
        return Value(f"{sign}{number(100 * value, 2)} points", value)
    return Value(f"{sign}{number(value)} nats", value)


def _race(s: Scene, recorded: str | None) -> RunFacts:
    return s.race if recorded is None else run_facts(recorded)


def _ends(s: Scene, quantity: str, of: str, recorded: str | None) -> list[float]:
    race = _race(s, recorded)
    return [race.value(quantity, i, "last", of, s.knobs["k"]) for i in range(len(race.racers))]


@a_field
def steps(s: Scene, recorded: str | None = None) -> Value:
    return whole(_race(s, recorded).steps)


@a_field
def run_step(s: Scene, step: int) -> Value:
    return whole(step)


@a_field
def racer(s: Scene, i: int, recorded: str | None = None) -> Value:
    return word(_race(s, recorded).racers[i])


@a_field
def run(
    s: Scene, quantity: str, racer: int = 0, step: Any = "last", of: str = "held_out", recorded: str | None = None
) -> Value:
    """A quantity of a racer at a step."""
    return _quantity(quantity, _race(s, recorded).value(quantity, racer, step, of, s.knobs["k"]))


@a_field
def seeds(_: Scene) -> Value:
    """By how much a change of seed moves the gap of the page's usual race."""
    return nats(seed_facts()["divergence"])


@a_field
def change(
    s: Scene,
    quantity: str,
    racer: int = 0,
    since: Any = "first",
    until: Any = "last",
    of: str = "held_out",
    recorded: str | None = None,
) -> Value:
    """How far a quantity moved between two steps."""
    race = _race(s, recorded)
    start, end = (race.value(quantity, racer, step, of, s.knobs["k"]) for step in (since, until))
    return _moved(quantity, end - start)


@a_field
def stretch(s: Scene, quantity: str, part: str, racer: int = 0, recorded: str | None = None) -> Value:
    """The mean of a quantity of the log over the first or the last third of the steps."""
    values = [value for _, value in _race(s, recorded).series(quantity, racer, "row")]
    third = max(1, len(values) // 3)
    chosen = values[:third] if part == "early" else values[-third:]
    return _quantity(quantity, sum(chosen) / third)


@a_field
def room(s: Scene, quantity: str, racer: int = 0, step: Any = "last", of: str = "held_out") -> Value:
    """What is left of a share: one minus it."""
    return share(1 - s.race.value(quantity, racer, step, of, s.knobs["k"]))


@a_field
def reached(s: Scene, value: float) -> Value:
    """A share that an exercise asks for."""
    return share(value)


@a_field
def gap(s: Scene, quantity: str, of: str = "held_out", recorded: str | None = None) -> Value:
    """How far the two racers are apart at the end."""
    ends = _ends(s, quantity, of, recorded)
    apart = abs(ends[0] - ends[1])
    return Value(f"{number(100 * apart, 2)} points", apart) if _is_share(quantity) else nats(apart)


@a_field
def lower(s: Scene, quantity: str = "divergence", of: str = "held_out", recorded: str | None = None) -> Value:
    """The racer that ends lower."""
    ends = _ends(s, quantity, of, recorded)
    return word(_race(s, recorded).racers[ends.index(min(ends))])


@a_field
def higher(s: Scene, quantity: str = "divergence", of: str = "held_out", recorded: str | None = None) -> Value:
    ends = _ends(s, quantity, of, recorded)
    return word(_race(s, recorded).racers[ends.index(max(ends))])


assert set(RANKINGS) < set(SELECTORS)
