"""Drafts: what proposes the tokens that the teacher verifies.

A draft answers one question, the next token's distribution q, at the end of the text so far and at the end of what it
has drafted since. Nodes are numbered from 0 in the order in which they were drafted in a round; -1 is the text itself.
A chain is the tree in which each node's parent is the one before it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from speckd.decoding.forward import Forward
from speckd.heads import Head


class Draft(Protocol):
    """What the rounds need of a draft.

    Attributes:
        name: as a person writes it, knobs included: "student:vocab=8192".
        vocabulary: (V',) int64, the token ids that its rows name, ascending; None where they are the teacher's V.
        wants_features: whether ``commit`` reads the teacher's hidden states.
    """

    name: str
    wants_features: bool

    @property
    def vocabulary(self) -> Tensor | None: ...

    def commit(self, ids: Sequence[int], features: Tensor | None, nodes: Sequence[int]) -> Tensor | None:
        """Take in tokens that now stand in the text; what else was drafted in the last round is forgotten.

        Args:
            ids: the new tokens, in order; the whole prompt in the first call.
            features: (len(ids), H), the teacher's hidden state that *predicted* each of them (the state one position
                earlier; zeros for the very first token), where ``wants_features``; else None.
            nodes: the nodes of the last round that were accepted: they are the first ``len(nodes)`` of ``ids``.
        Returns:
            (V',) float32 logits of the token after them, or None where it has nothing to propose.
        """
        ...

    def extend(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        """Draft nodes with these token ids after these parents (earlier nodes, or -1).

        Returns:
            (n, V') float32 logits of the token after each.
        """
        ...

    def fresh(self) -> "Draft":
        """The same draft with nothing read yet."""
        ...


@dataclass
class Nodes:
    """The nodes of one round so far, and who descends from whom.

    Attributes:
        parents: each node's parent, -1 for the text itself.
        depths: each node's depth, 1 for a child of the text.
    """

    parents: list[int]
    depths: list[int]

    @classmethod
    def empty(cls) -> "Nodes":
        return cls([], [])

    def add(self, parents: Sequence[int]) -> list[int]:
        """Add one node after each of the parents; returns their numbers."""
        first = len(self.parents)
        for parent in parents:
            self.depths.append(1 if parent < 0 else self.depths[parent] + 1)
            self.parents.append(parent)
        return list(range(first, len(self.parents)))

    def path(self, node: int) -> list[int]:
        """The nodes from the text to this one, itself included."""
        path: list[int] = []
        while node >= 0:
            path.append(node)
            node = self.parents[node]
        return path[::-1]

    def mask(self, nodes: Sequence[int]) -> Tensor:
        """Which of the round's nodes each of these sees, its ancestors and itself: (n, all nodes) bool."""
        mask = torch.zeros((len(nodes), len(self.parents)), dtype=torch.bool)
        for row, node in enumerate(nodes):
            mask[row, self.path(node)] = True
        return mask

    @property
    def is_chain(self) -> bool:
        return all(parent == node - 1 for node, parent in enumerate(self.parents))


class ModelDraft:
    """A whole model as a draft: the pair's student, or any that shares the teacher's vocabulary.

    Args:
        forward: the model's, empty.
        name: as the draft is written.
        head: the model's head, where it is cut to ``frequent``.
        frequent: token ids that a cut head keeps, beside those of the prompt and ``always``; None keeps all. The text
            stays exact, since the teacher verifies over the whole vocabulary (FR-Spec, thunlp/FR-Spec).
        always: token ids that are kept in any case, such as those that end a text.
    """

    wants_features = False

    def __init__(
        self,
        forward: Forward,
        name: str = "student",
        head: Head | None = None,
        frequent: Sequence[int] | None = None,
        always: Sequence[int] = (),
    ) -> None:
        self.forward, self.name, self.head = forward, name, head
        self.frequent, self.always = frequent, always
        self.vocabulary: Tensor | None = None
        self._cut: Head | None = None
        self._base, self._nodes = 0, Nodes.empty()

    def fresh(self) -> "ModelDraft":
        return ModelDraft(self.forward.fresh(), self.name, self.head, self.frequent, self.always)

    def _cut_head(self, prompt_ids: Sequence[int]) -> None:
        assert self.head is not None and self.frequent is not None
        kept = sorted({*self.frequent, *prompt_ids, *self.always})
        self.vocabulary = torch.tensor(kept, device=self.head.weight.device)
        bias = self.head.bias[self.vocabulary] if self.head.bias is not None else None
        self._cut = replace(self.head, weight=self.head.weight[self.vocabulary], bias=bias)

    def _logits(self, hidden: Tensor) -> Tensor:
        if self._cut is None:
            return self.forward.logits(hidden)
        with torch.inference_mode():
            return self._cut.logits(hidden)

    def commit(self, ids: Sequence[int], features: Tensor | None, nodes: Sequence[int]) -> Tensor:
        if self.frequent is not None and self._cut is None:
            self._cut_head(ids)
        self.forward.keep(self._base, nodes)
        hidden = self.forward.feed(ids[len(nodes) :])
        self._base, self._nodes = self.forward.length, Nodes.empty()
        return self._logits(hidden[-1:])[0]

    def extend(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        added = self._nodes.add(parents)
        if self._nodes.is_chain:
            return self._logits(self.forward.feed(tokens))
        places = [self._base + self._nodes.depths[node] - 1 for node in added]
        return self._logits(self.forward.feed(tokens, places, self._nodes.mask(added)))


class LookupDraft:
    """Prompt lookup: what followed the last time the text's last few tokens stood together. The free control.

    Args:
        vocabulary_size: V.
        longest, least: tokens that have to match, the longest match first.
        depth: tokens proposed at most.
    Source: prompt lookup decoding, as in transformers.
    """

    wants_features = False
    vocabulary: Tensor | None = None

    def __init__(self, vocabulary_size: int, longest: int = 3, least: int = 2, depth: int = 10) -> None:
        self.vocabulary_size, self.longest, self.least, self.depth = vocabulary_size, longest, least, depth
        self.name = "lookup" if (longest, least) == (3, 2) else f"lookup:longest={longest}:least={least}"
        self.text: list[int] = []
        self.found: list[int] = []

    def fresh(self) -> "LookupDraft":
        return LookupDraft(self.vocabulary_size, self.longest, self.least, self.depth)

    def commit(self, ids: Sequence[int], features: Tensor | None, nodes: Sequence[int]) -> Tensor | None:
        self.text += ids
        self.found = self._look_up()
        return self._sure_of(self.found[0]) if self.found else None

    def extend(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        next_places = [parent + 2 for parent in parents]
        return torch.stack([self._sure_of(self.found[n] if n < len(self.found) else None) for n in next_places])

    def _sure_of(self, token: int | None) -> Tensor:
        """Logits that leave one token possible, or none."""
        row = torch.full((self.vocabulary_size,), -torch.inf)
        if token is not None:
            row[token] = 0.0
        return row

    def _look_up(self) -> list[int]:
        text = self.text
        for size in range(self.longest, self.least - 1, -1):
            tail = text[-size:]
            for start in range(len(text) - size - 1, -1, -1):
                if text[start : start + size] == tail:
                    return text[start + size : start + size + self.depth]
        return []


class LookupFirst:
    """Prompt lookup where it finds something, another draft where it does not: what is free is tried first.

    The other draft reads the text only when it is asked; what came meanwhile waits. Which of the two proposes is told
    by the text alone, so a sampled text stays exact.

    Args:
        lookup, then: with nothing read yet.
        name: as the draft is written.
    Attributes:
        looked_up: whether this round's rows were looked up: then they cost no run of a model.
    """

    def __init__(self, lookup: LookupDraft, then: Draft, name: str) -> None:
        self.lookup, self.then, self.name = lookup, then, name
        self.wants_features = then.wants_features
        self.looked_up = True
        self._ids: list[int] = []  # what the other draft has not read yet
        self._features: list[Tensor] = []
        self._nodes: list[int] = []  # of its own last round, those that were accepted

    @property
    def vocabulary(self) -> Tensor | None:
        return self.lookup.vocabulary if self.looked_up else self.then.vocabulary

    def fresh(self) -> "LookupFirst":
        return LookupFirst(self.lookup.fresh(), self.then.fresh(), self.name)

    def commit(self, ids: Sequence[int], features: Tensor | None, nodes: Sequence[int]) -> Tensor | None:
        if not self.looked_up:
            self._nodes = list(nodes)
        self._ids += ids
        if features is not None:
            self._features.append(features)
        row = self.lookup.commit(ids, None, [])
        self.looked_up = row is not None
        if row is not None:
            return row
        waited = torch.cat(self._features) if self._features else None
        row = self.then.commit(self._ids, waited, self._nodes)
        self._ids, self._features, self._nodes = [], [], []
        return row

    def extend(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        return (self.lookup if self.looked_up else self.then).extend(tokens, parents)


@dataclass
class Fitted:
    """A draft that fits a pair.

    Attributes:
        name: with its knobs.
        draft: what proposes; None decodes plainly.
        rounds: makes the rounds of one text from (target, rule, policy, prompt ids, length, ...).
        probe: a draft with nothing read yet whose steps can be timed.
        is_predicted: whether its speed follows from ``Costs``, which know one level.
    """

    name: str
    draft: Draft | None
    rounds: Callable[..., Any]
    probe: Callable[[], Draft]
    is_predicted: bool = True
