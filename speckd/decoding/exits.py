"""Drafts that leave the teacher early: one exit (self-speculation), or two, one verifying the other (HiSpec).

An exit reads the hidden state after some layer with the teacher's own last norm and head. What its layers computed is
not computed again: hidden states are handed on to the layers above, keys and values stay in the cache, and after a
rejection every layer is cut back to the accepted prefix. An exit that was never trained says little (top-1 agreement
0.05 at depth 8 of the packaged teacher), so exits of the packaged teacher have side branches (branches.py), with the
teacher's head cut to the most frequent tokens; ``raw=1`` leaves them out.

Source: HiSpec (arXiv 2510.01336): draft 2 tokens from an exit at about 1/8 of the depth, verify them at about 1/4, and
when 4 are gathered verify those with the whole model. LayerSkip (facebookresearch/LayerSkip) for a single exit.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from speckd.decoding.branches import Branch, read_branches, shipped_branches
from speckd.decoding.drafts import Draft, Fitted
from speckd.decoding.eagle import cut_head
from speckd.decoding.forward import Forward, Ids, LayeredForward, difference_in_layers, tolerance
from speckd.decoding.lean import Matrix
from speckd.decoding.policies import Fixed, Policy
from speckd.decoding.rounds import Drafted, Round, Rounds, Rule, log_softmax
from speckd.heads import Head
from speckd.pairs import Pair


@dataclass(frozen=True, eq=False)
class Exit:
    """Where the teacher is left.

    Attributes:
        layer: layers that were run, 1 or more, fewer than all.
        branch: what stands there, or None for the teacher's own last norm and whole head.
        head: (n, H) to (n, V'), the teacher's head cut to the vocabulary, where there is a branch.
        vocabulary: (V',) token ids, ascending; None for all.
    """

    layer: int
    branch: Branch | None = None
    head: Callable[[Tensor], Tensor] | None = None
    vocabulary: Tensor | None = None

    def logits(self, teacher: LayeredForward, hidden: Tensor) -> Tensor:
        """(n, H) states after the layer to (n, V') logits."""
        if self.branch is None or self.head is None:
            return teacher.logits(teacher.norm(hidden))
        with torch.inference_mode():
            return self.head(self.branch(hidden))

    def token(self, place: int) -> int:
        """The id of a place in the vocabulary."""
        return place if self.vocabulary is None else int(self.vocabulary[place])


class ExitDraft:
    """The teacher's first layers as its draft.

    Args:
        teacher: the forward that also verifies: states and cache are shared.
        exit: where a drafted token leaves it.
    """

    wants_features = False

    def __init__(self, teacher: LayeredForward, exit: Exit, name: str) -> None:
        self.teacher, self.exit, self.name = teacher, exit, name
        self.layer, self.vocabulary = exit.layer, exit.vocabulary
        self._handed: list[Tensor] = []  # (1, H) at the exit, of the text's last token and the nodes that were run
        self._n_text = 0

    def fresh(self) -> "ExitDraft":
        return ExitDraft(cast(LayeredForward, self.teacher.fresh()), self.exit, self.name)

    def commit(self, ids: Sequence[int], features: Tensor | None, nodes: Sequence[int]) -> Tensor:
        self._handed = []
        self._n_text += len(ids)
        if self.teacher.length != self._n_text - 1:  # nobody verifies here: the layers below the exit read it alone
            self.teacher.crop(self._n_text - len(ids))
            if len(ids) > 1:
                self._leave(ids[:-1])
            self._handed = []
        return self._leave(ids[-1:])

    def extend(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        assert len(tokens) == 1, "an exit drafts chains"
        return self._leave(tokens)[None]

    def _leave(self, ids: Sequence[int]) -> Tensor:
        hidden = self.teacher.run(self.teacher.embed(ids), 0, self.layer)
        self._handed.append(hidden)
        return self.exit.logits(self.teacher, hidden[-1:])[0]

    def feed_teacher(self, ids: Ids, positions: Sequence[int] | None = None, mask: Tensor | None = None) -> Tensor:
        """The teacher's pass over these rows, of which the first were run up to the exit while they were drafted."""
        assert mask is None, "an exit drafts chains"
        teacher, rest = self.teacher, list(ids)[len(self._handed) :]
        rows = list(self._handed)
        if rest:
            rows.append(teacher.run(teacher.embed(rest), 0, self.layer))
        self._handed = []
        return teacher.norm(teacher.run(torch.cat(rows), self.layer, teacher.n_layers))


class HiSpecRounds(Rounds):
    """Rounds on three floors: an early exit drafts, a later one verifies, and the whole model has the last word.

    Args:
        exits: the two, the earlier one first; they share a vocabulary.
        n_draft: tokens that the early exit drafts before the later one looks.
        gather: tokens that have to be gathered before the whole model looks.
        Others as in ``Rounds``.
    """

    def __init__(
        self, target: LayeredForward, exits: tuple[Exit, Exit], n_draft: int, gather: int, *more: Any, **named: Any
    ):
        super().__init__(target, None, *more, **named)
        self.layers: LayeredForward = target
        self.exits, self.n_draft, self.gather = exits, n_draft, gather
        self.low, self.middle = (one.layer for one in exits)
        self._handed: list[Tensor] = []
        self._feed = self._last_floor
        self._floors: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[Round]:
        for done in super().__iter__():
            done.floors, self._floors = self._floors, []
            yield done

    def _propose(self, start: int) -> Drafted:
        drafted, room = Drafted(), self.max_new_tokens - start - 1
        base, last = self.target.length, self.pending
        self._handed = []
        while len(drafted.tokens) < min(self.gather, room) and (not drafted.tokens or last not in self.stops):
            self._ask()
            proposed, rows = self._draft_low(last, min(self.n_draft, room - len(drafted.tokens)))
            hidden, verdict, logits = self._look_middle(proposed, rows)
            accepted = len(verdict) - 1
            kept = min(len(verdict), room - len(drafted.tokens))
            for place, token in enumerate(verdict[:kept]):
                # The middle floor takes what is its own best token, so that is the one whose probability counts.
                logprob = float(log_softmax(logits[place], self.rule.draft_temperature).max())
                above = drafted.paths[-1] if drafted.paths else 0.0
                drafted.tokens.append(token)
                drafted.parents.append(len(drafted.tokens) - 2)
                drafted.logprobs.append(logprob)
                drafted.paths.append(above + logprob)
                drafted.confidences.append(math.exp(logprob))
                drafted.rows.append(logits[place])
                drafted.draft_nodes.append(None)
            self._floors.append({"drafted": proposed, "accepted": accepted, "middle": verdict[-1]})
            # Rows of the last token and of what the middle floor accepted stay; its own token has not been run yet.
            self._handed.append(hidden[: 1 + accepted])
            self._crop(base + sum(len(rows) for rows in self._handed))
            drafted.steps += len(proposed)
            last = verdict[-1]
        return drafted

    def _crop(self, length: int) -> None:
        self.layers.crop(length)

    def _draft_low(self, last: int, n_tokens: int) -> tuple[list[int], list[Tensor]]:
        """Tokens by the early exit, and the states (1, H) of all rows that were run for them."""
        proposed: list[int] = []
        rows: list[Tensor] = []
        while len(proposed) < n_tokens:
            rows.append(self.layers.run(self.layers.embed([proposed[-1] if proposed else last]), 0, self.low))
            proposed.append(self.exits[0].token(int(self.exits[0].logits(self.layers, rows[-1])[0].argmax())))
            if proposed[-1] in self.stops:
                break
        return proposed, rows

    def _look_middle(self, proposed: list[int], rows: list[Tensor]) -> tuple[Tensor, list[int], Tensor]:
        """States of [last, *proposed] at the later exit; the tokens it accepts and one of its own; its logits."""
        rows = [*rows, self.layers.run(self.layers.embed(proposed[-1:]), 0, self.low)]
        hidden = self.layers.run(torch.cat(rows), self.low, self.middle)
        logits = self.exits[1].logits(self.layers, hidden)
        own = [self.exits[1].token(place) for place in logits.argmax(-1).tolist()]
        accepted = 0
        while accepted < len(proposed) and proposed[accepted] == own[accepted]:
            accepted += 1
        return hidden, [*proposed[:accepted], own[accepted]], logits

    def _last_floor(self, ids: Ids, positions: Sequence[int] | None = None, mask: Tensor | None = None) -> Tensor:
        layers = self.layers
        handed = torch.cat(self._handed)[: len(ids)] if self._handed else None
        self._handed = []
        if handed is None:
            return layers.feed(ids)
        base = layers.length
        # Where the middle floor kept more than there is room for, its surplus rows go first.
        layers.crop(base + len(handed))
        rest = list(ids)[len(handed) :]
        rows = [handed]
        if rest:
            rows.append(layers.run(layers.embed(rest), 0, self.middle))
        return layers.norm(layers.run(torch.cat(rows), self.middle, layers.n_layers))


# --- fitting them to a pair -----------------------------------------------------------------------------------------


def layered(pair: Pair, target: Forward, deepest: int, what: str) -> LayeredForward:
    """The target as a forward that runs part of its depth, checked against its whole pass.

    Raises:
        ValueError: an exit lies beyond the depth, or the model's layers cannot be run one by one.
    """
    if deepest >= target.n_layers:
        raise ValueError(
            f"{what}: an exit after layer {deepest} is beyond this teacher's depth: choose one below {target.n_layers}."
        )
    forward = cast(LayeredForward, target)
    try:
        fits = difference_in_layers(cast(LayeredForward, forward.fresh()), deepest) <= tolerance(target.dtype)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"{what}: {type(pair.teacher).__name__} cannot be left after a layer; choose another draft.")
    return forward


def exits_of(pair: Pair, layers: Sequence[int], raw: bool) -> list[Exit]:
    """Exits of the pair's teacher after these layers, all with side branches or none."""
    file = None if raw else shipped_branches()
    found = read_branches(file, pair.teacher_sha256) if file is not None else None
    if found is None or any(layer not in found[0] for layer in layers):
        return [Exit(layer) for layer in layers]
    branches, vocabulary = found
    head = cut_head(Head.of(pair.teacher), vocabulary.to(Head.of(pair.teacher).weight.device))
    product = Matrix([head.weight]) if head.weight.dtype == torch.float32 and head.bias is None else head.logits
    kind, device = head.weight.dtype, head.weight.device
    return [Exit(layer, branches[layer].to(device, kind), product, vocabulary.to(device)) for layer in layers]


def fit_exit(pair: Pair, name: str, target: Forward, knobs: dict[str, int]) -> Fitted:
    """One exit of the teacher as its draft; see ``layered`` for errors."""
    layer = knobs["layer"]
    teacher = layered(pair, target, layer, f"draft {name!r}")
    draft: Draft = ExitDraft(teacher, exits_of(pair, [layer], bool(knobs["raw"]))[0], name)

    def rounds(target: Forward, rule: Rule, policy: Policy, prompt: Sequence[int], length: int, **more: Any) -> Rounds:
        return Rounds(target, draft, rule, policy, prompt, length, **more)

    return Fitted(name, draft, rounds, draft.fresh)


def fit_hispec(pair: Pair, name: str, target: Forward, knobs: dict[str, int]) -> Fitted:
    """Two exits of the teacher; see ``layered`` for errors."""
    teacher = layered(pair, target, knobs["middle"], f"draft {name!r}")
    low, middle = exits_of(pair, [knobs["draft"], knobs["middle"]], bool(knobs["raw"]))
    draft: Draft = ExitDraft(teacher, low, name)

    def rounds(target: Forward, rule: Rule, policy: Policy, prompt: Sequence[int], length: int, **more: Any) -> Rounds:
        lengths = (knobs["n_draft"], knobs["gather"])
        policy = Fixed(g=min(16, knobs["gather"] + knobs["n_draft"]))
        return HiSpecRounds(cast(LayeredForward, target), (low, middle), *lengths, rule, policy, prompt, length, **more)

    return Fitted(name, draft, cast(Callable[..., Any], rounds), draft.fresh, is_predicted=False)
