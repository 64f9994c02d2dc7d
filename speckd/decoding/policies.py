"""Policies: how far a round drafts. All of them are exact: they decide from q and from tokens that are verified anyway.

A stopping rule that looked at a drawn token and then threw it away would bend the distribution of the text. So a chain
rule is asked *before* a token is drawn, with the largest probability of q at that place (which no draw changes), and a
token that was drawn always goes to the teacher.

    none                        no drafts: plain decoding
    fixed:g=4                   g tokens a round
    confidence:p=0.4            as long as q's largest probability is at least p
    path:p=0.3                  as long as the product of the drafted probabilities stays at least p
    cost                        as long as one more token is worth its price, by measured costs (ours)
    tree:width=4:depth=3:nodes=8    EAGLE-2: beams of this width to this depth, the best nodes of the whole tree
    ddd:x=-0.3:width=10:n=11    Dynamic Depth Decoding: a tree to depth n that stops at steps 5, 7 or 9 where the
                                logsumexp of its beams' log-probabilities is below x
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from speckd.decoding.costs import Costs

MOST_DRAFTED = 16  # tokens of one chain
MOST_NODES = 64  # of one tree: more rows than that no machine here verifies at a gain
MOST_WIDTH = 16


@dataclass(frozen=True)
class Policy:
    """What every policy offers.

    Attributes:
        name: short name, as it is written before the first colon.
        tree: whether it drafts a tree.
    """

    name: ClassVar[str] = ""
    tree: ClassVar[bool] = False

    def describe(self) -> str:
        """The policy with its knobs, as ``policy_from_text`` reads it: ``fixed:g=4``."""
        knobs = (f"{knob.name}={_written(getattr(self, knob.name))}" for knob in fields(self))
        return ":".join([self.name, *knobs])

    def begin(self, costs: Costs | None) -> "ChainRule":
        """The rule for one text; rules that learn start anew with each."""
        raise NotImplementedError


class ChainRule:
    """How a chain goes on: asked with what was drafted so far.

    Attributes:
        most: tokens at most.
    """

    def __init__(self, most: int) -> None:
        self.most = most

    def takes(self, n_drafted: int, log_path: float, confidence: float) -> bool:
        """Whether one more token is drafted.

        Args:
            n_drafted: tokens of this round so far.
            log_path: the sum of their log-probabilities under q.
            confidence: the largest probability of q at the next place.
        """
        return True

    def looks(self, n_drafted: int, log_path: float) -> bool:
        """Whether the draft is run for another place at all, also for the first; asked before that costs anything."""
        return True

    def learn(self, confidences: Sequence[float], n_accepted: int, examined: int) -> None:
        """Told what became of a round's tokens."""


@dataclass(frozen=True)
class Plain(Policy):
    """No drafts: one token a pass of the teacher, the baseline."""

    name: ClassVar[str] = "none"

    def begin(self, costs: Costs | None) -> ChainRule:
        return ChainRule(0)


@dataclass(frozen=True)
class Fixed(Policy):
    """g tokens in every round.

    Args:
        g: 1 to 16.
    Source: Leviathan et al. (arXiv 2211.17192).
    """

    g: int = 4
    name: ClassVar[str] = "fixed"

    def __post_init__(self) -> None:
        _check_whole("g", self.g, 1, MOST_DRAFTED)

    def begin(self, costs: Costs | None) -> ChainRule:
        return ChainRule(self.g)


@dataclass(frozen=True)
class Confidence(Policy):
    """Draft on as long as the draft is sure of its next token.

    Args:
        p: the least probability that q's best token must have, 0 to 1; 0.4 in transformers.
        most: tokens of one round at most.
    Source: transformers' assisted generation, where the token that was not sure is still sent along.
    """

    p: float = 0.4
    most: int = 8
    name: ClassVar[str] = "confidence"

    def __post_init__(self) -> None:
        _check_share("p", self.p)
        _check_whole("most", self.most, 1, MOST_DRAFTED)

    def begin(self, costs: Costs | None) -> ChainRule:
        return _Threshold(self.most, self.p, whole_path=False)


@dataclass(frozen=True)
class PathProbability(Policy):
    """Draft on as long as the whole draft is likely: the product of its probabilities, the next one's included.

    Args:
        p: the least product, 0 to 1.
        most: tokens of one round at most.
    """

    p: float = 0.3
    most: int = 8
    name: ClassVar[str] = "path"

    def __post_init__(self) -> None:
        _check_share("p", self.p)
        _check_whole("most", self.most, 1, MOST_DRAFTED)

    def begin(self, costs: Costs | None) -> ChainRule:
        return _Threshold(self.most, self.p, whole_path=True)


class _Threshold(ChainRule):
    def __init__(self, most: int, p: float, whole_path: bool) -> None:
        super().__init__(most)
        self.p, self.whole_path = p, whole_path

    def takes(self, n_drafted: int, log_path: float, confidence: float) -> bool:
        return confidence * (math.exp(log_path) if self.whole_path else 1.0) >= self.p

    def looks(self, n_drafted: int, log_path: float) -> bool:
        return not self.whole_path or math.exp(log_path) >= self.p


@dataclass(frozen=True)
class CostAware(Policy):
    """Draft on as long as the tokens that one more draft is expected to bring are worth what it costs.

    Decoding earns tokens and pays time; the policy that earns most a second pays for a draft exactly where its expected
    tokens exceed its time at the current rate of earning (renewal-reward; the marginal value theorem). With costs in
    teacher tokens: token g + 1 joins where  reach * confidence > rate * (v(g + 2) - v(g + 1)),  and the draft is run
    for it where  reach * (its usual confidence) > rate * (v(g + 2) - v(g + 1) + c).  ``reach`` is the chance that all
    drafted so far pass, ``rate`` the tokens a teacher token's time has brought in this text so far, at least plain
    decoding's 1. Confidence counts as chance after it was compared with what passed in this text (ten bins, each
    starting with the draft's own word for it).

    Args:
        most: tokens of one round at most.
    """

    most: int = 8
    name: ClassVar[str] = "cost"

    def __post_init__(self) -> None:
        _check_whole("most", self.most, 1, MOST_DRAFTED)

    def begin(self, costs: Costs | None) -> ChainRule:
        if costs is None:
            raise ValueError("The policy 'cost' decides by measured costs: give them, from speckd.measure_costs.")
        return _CostRule(self.most, costs)


class _CostRule(ChainRule):
    _PRIOR = 8.0  # examined tokens that a bin's starting value counts for
    _TRY_AGAIN = 8  # a draft that does not pay is asked again every eighth round: the text may have changed

    def __init__(self, most: int, costs: Costs) -> None:
        super().__init__(most)
        self.costs = costs
        self.tried, self.passed = [self._PRIOR] * 10, [self._PRIOR * (bin + 0.5) / 10 for bin in range(10)]
        self.tokens, self.time = 8.0, 8.0  # as if eight tokens had been decoded plainly
        self.usual_tried, self.usual_passed = self._PRIOR, 0.5 * self._PRIOR
        self.chances: list[float] = []
        self.rounds = 0

    def _chance(self, confidence: float) -> float:
        place = min(9, int(10 * confidence))
        return self.passed[place] / self.tried[place]

    @property
    def rate(self) -> float:
        return max(1.0, self.tokens / self.time)

    def _price(self, n_drafted: int) -> float:
        return self.costs.verify(n_drafted + 2) - self.costs.verify(n_drafted + 1)

    def _reach(self, n_drafted: int) -> float:
        return math.prod(self.chances[:n_drafted])

    def takes(self, n_drafted: int, log_path: float, confidence: float) -> bool:
        chance = self._chance(confidence)
        if self._reach(n_drafted) * chance <= self.rate * self._price(n_drafted):
            return False
        self.chances[n_drafted:] = [chance]
        return True

    def looks(self, n_drafted: int, log_path: float) -> bool:
        if n_drafted == 0:
            self.rounds += 1
            if self.rounds % self._TRY_AGAIN == 0:
                return True
        usual = self.usual_passed / self.usual_tried
        return self._reach(n_drafted) * usual > self.rate * (self._price(n_drafted) + self.costs.draft)

    def learn(self, confidences: Sequence[float], n_accepted: int, examined: int) -> None:
        for place, confidence in enumerate(confidences[:examined]):
            column = min(9, int(10 * confidence))
            self.tried[column] += 1
            self.passed[column] += place < n_accepted
            self.usual_tried += 1
            self.usual_passed += place < n_accepted
        self.tokens += n_accepted + 1
        self.time += self.costs.verify(len(confidences) + 1) + len(confidences) * self.costs.draft


@dataclass(frozen=True)
class Tree(Policy):
    """Beams of the likeliest paths, then the best nodes of the whole tree.

    Args:
        width: paths that are followed at each step, and children tried of each.
        depth: steps at most.
        nodes: nodes that go to the teacher at most, by the probability of their path.
        p: the least probability of a node's path that goes there: an unlikely row costs as much as a likely one.
    Source: EAGLE-2 (SafeAILab/EAGLE): width 10, depth 7, 60 nodes.
    """

    width: int = 4
    depth: int = 3
    nodes: int = 8
    p: float = 0.0
    name: ClassVar[str] = "tree"
    tree: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_whole("width", self.width, 1, MOST_WIDTH)
        _check_whole("depth", self.depth, 1, MOST_DRAFTED)
        _check_whole("nodes", self.nodes, 1, MOST_NODES)
        _check_share("p", self.p)

    def begin(self, costs: Costs | None) -> ChainRule:
        return ChainRule(self.depth)

    def checks(self, step: int) -> bool:
        """Whether the tree's depth is questioned after this step (from 1)."""
        return False

    def stops(self, value: float) -> bool:
        """Whether it ends there, given the logsumexp of the beams' log-probabilities."""
        return False


@dataclass(frozen=True)
class DynamicDepth(Tree):
    """A tree that grows deeper as long as its beams are likely.

    Args:
        x: stop where the logsumexp of the beams' path log-probabilities is below this, 0 or less.
        width, nodes, p: as in ``Tree``.
        n: steps at most.
        steps: steps after which that is checked; each check costs a synchronisation on a GPU.
    Source: Dynamic Depth Decoding (arXiv 2409.00142): x = -0.3, w = 10, n = 11, S = {5, 7, 9}; those fit the paper's
        draft, so choose them anew for another one.
    """

    x: float = -0.3
    width: int = 10
    nodes: int = 60
    n: int = 11
    steps: tuple[int, ...] = (5, 7, 9)
    depth: int = field(default=11, init=False, repr=False)
    name: ClassVar[str] = "ddd"

    def __post_init__(self) -> None:
        _check_whole("n", self.n, 1, MOST_DRAFTED)
        object.__setattr__(self, "depth", self.n)
        super().__post_init__()
        if isinstance(self.x, bool) or not isinstance(self.x, int | float) or not -1000.0 <= self.x <= 0.0:
            raise ValueError(f"x is {self.x!r}: choose a log-probability, 0 or less.")
        for step in self.steps:
            _check_whole("a step of steps", step, 1, MOST_DRAFTED)

    def describe(self) -> str:
        steps = "+".join(map(str, self.steps))
        knobs = f"x={_written(self.x)}:width={self.width}:n={self.n}:steps={steps}:nodes={self.nodes}"
        return f"ddd:{knobs}:p={_written(self.p)}"

    def checks(self, step: int) -> bool:
        return step in self.steps

    def stops(self, value: float) -> bool:
        return value < self.x


POLICIES: dict[str, type[Policy]] = {
    policy.name: policy for policy in (Plain, Fixed, Confidence, PathProbability, CostAware, Tree, DynamicDepth)
}


def logsumexp(values: Sequence[float]) -> float:
    """log sum exp of the beams' path log-probabilities: DDD's measure of how much the beams still hold."""
    most = max(values)
    return most + math.log(sum(math.exp(value - most) for value in values))


# --- as text --------------------------------------------------------------------------------------------------------


def policy_from_text(text: str) -> Policy:
    """The policy that a text names: its name, then ``:knob=value``.

    Raises:
        ValueError: an unknown name or knob (the message lists the known ones), or a value out of range.
    """
    name, knobs = split_knobs(text)
    if name not in POLICIES:
        raise ValueError(f"{name!r} is not a policy here. Choose one of: {', '.join(POLICIES)}.")
    kind = POLICIES[name]
    known = {knob.name: knob.default for knob in fields(kind) if knob.init}
    return kind(**read_knobs("policy", name, knobs, known))


def split_knobs(text: str) -> tuple[str, dict[str, str]]:
    """``"fixed:g=4"`` as ``("fixed", {"g": "4"})``.

    Raises:
        ValueError: it is not written so.
    """
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not a text: write a name, then :knob=value, such as fixed:g=4.")
    name, *parts = text.strip().split(":")
    knobs = {}
    for part in parts:
        knob, equals, value = part.partition("=")
        if not equals or not knob.strip() or knob.strip() in knobs:
            raise ValueError(f"{text!r} cannot be read at {part!r}: write a name, then :knob=value, each knob once.")
        knobs[knob.strip()] = value.strip()
    return name.strip(), knobs


def read_knobs(what: str, name: str, knobs: dict[str, str], known: dict[str, Any]) -> dict[str, Any]:
    """Knobs as values of their defaults' types: whole numbers, numbers, or whole numbers joined by +.

    Raises:
        ValueError: an unknown knob, or a text that is no such value.
    """
    if unknown := [knob for knob in knobs if knob not in known]:
        settings = ", ".join(known) or "none"
        raise ValueError(f"{what} {name!r} has no {unknown[0]!r}; its settings are: {settings}.")
    read: dict[str, Any] = {}
    for knob, text in knobs.items():
        default = known[knob]
        try:
            if isinstance(default, tuple):
                read[knob] = tuple(int(part) for part in text.split("+")) if text else ()
            else:
                read[knob] = float(text) if isinstance(default, float) else int(text)
        except ValueError:
            kind = "a number" if isinstance(default, float) else "a whole number"
            raise ValueError(f"{what} {name!r}: {knob} is {text!r}, and {kind} was expected.") from None
    return read


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _check_whole(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}: choose a whole number from {least} to {most}.")


def _check_share(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value!r}: choose a number from 0 to 1.")
