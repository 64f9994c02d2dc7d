"""Drafts: what proposes the tokens that the teacher verifies.

A draft answers one question, the next token's distribution q, at the end of the text so far and at the end of what it
has drafted since. Nodes are numbered from 0 in the order in which they were drafted in a round; -1 is the text itself.
A chain is the tree in which each node's parent is the one before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Draft(Protocol):
    """What the rounds need of a draft.

    Attributes:
        name: as a person writes it, knobs included: "student:vocab=8192".
        vocabulary: (V',) int64, the token ids that its rows name, ascending; None where they are the teacher's V.
        wants_features: whether ``commit`` reads the teacher's hidden states.
    """

    name: str
    vocabulary: Tensor | None
    wants_features: bool

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
