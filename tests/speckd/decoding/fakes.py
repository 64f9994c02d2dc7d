"""Models and drafts that are tables: the next token's logits follow from the tokens before it, exactly.

A hidden state is the number of its context in a list, so a wrong cache, mask or position shows as another context.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from speckd.decoding.drafts import Nodes

Table = Callable[[tuple[int, ...]], Sequence[float]]  # the tokens so far -> V logits


def table_from(seed: int, size: int, sharpness: float = 1.5, memory: int = 2) -> Table:
    """Random logits that depend on the last ``memory`` tokens (and on how many tokens there are, if few)."""

    def logits(context: tuple[int, ...]) -> list[float]:
        key = hash((seed, *context[-memory:])) % 2**31
        generator = torch.Generator().manual_seed(key)
        return (sharpness * torch.randn(size, generator=generator, dtype=torch.float64)).tolist()

    return logits


class TableForward:
    """A Forward whose logits are looked up; it counts the rows it was fed."""

    n_layers, width = 1, 1
    device, dtype = torch.device("cpu"), torch.float64

    def __init__(self, table: Table, vocabulary_size: int) -> None:
        self.table, self.vocabulary_size = table, vocabulary_size
        self.cache: list[tuple[int, int]] = []  # (position, token) of each row
        self.contexts: list[tuple[int, ...]] = []
        self.passes: list[int] = []

    @property
    def length(self) -> int:
        return len(self.cache)

    def fresh(self) -> "TableForward":
        return TableForward(self.table, self.vocabulary_size)

    def feed(self, ids, positions=None, mask=None) -> Tensor:  # type: ignore[no-untyped-def]
        ids = [int(token) for token in ids]
        n_rows, before = len(ids), len(self.cache)
        places = list(range(before, before + n_rows)) if positions is None else list(positions)
        self.cache += list(zip(places, ids, strict=True))
        if mask is None:
            mask = torch.ones((n_rows, n_rows), dtype=torch.bool).tril()
        first = len(self.cache) - mask.shape[1]
        hidden = []
        for row in range(n_rows):
            seen = self.cache[:first] + [self.cache[first + k] for k in range(mask.shape[1]) if mask[row, k]]
            seen.sort()
            assert [place for place, _ in seen] == list(range(len(seen))), "a row sees a text with holes"
            self.contexts.append(tuple(token for _, token in seen))
            hidden.append([float(len(self.contexts) - 1)])
        self.passes.append(n_rows)
        return torch.tensor(hidden, dtype=torch.float64)

    def logits(self, hidden: Tensor) -> Tensor:
        rows = [self.table(self.contexts[int(number)]) for number in hidden[:, 0]]
        return torch.tensor(rows, dtype=torch.float64)

    def crop(self, length: int) -> None:
        self.cache = self.cache[:length]

    def keep(self, start: int, rows: Sequence[int]) -> None:
        self.cache = self.cache[:start] + [self.cache[start + row] for row in rows]


class TableDraft:
    """A draft that looks its logits up; over part of the vocabulary where that is given."""

    wants_features = True
    name = "table"

    def __init__(self, table: Table, vocabulary: Sequence[int] | None = None) -> None:
        self.table, self.vocabulary_list = table, vocabulary
        self.vocabulary = None if vocabulary is None else torch.tensor(sorted(vocabulary))
        self.text: list[int] = []
        self.nodes, self.tokens = Nodes.empty(), []
        self.n_features = 0

    def fresh(self) -> "TableDraft":
        return TableDraft(self.table, self.vocabulary_list)

    def _row(self, context: Sequence[int]) -> Tensor:
        row = torch.tensor(self.table(tuple(context)), dtype=torch.float64)
        return row if self.vocabulary is None else row[self.vocabulary]

    def commit(self, ids, features, nodes):  # type: ignore[no-untyped-def]
        path = self.nodes.path(nodes[-1]) if nodes else []
        assert list(nodes) == path, "the accepted nodes are not one path"
        assert [self.tokens[node] for node in nodes] == list(ids[: len(nodes)]), "the accepted nodes are other tokens"
        assert len(features) == len(ids)
        self.text += ids
        self.n_features += len(features)
        self.nodes, self.tokens = Nodes.empty(), []
        return self._row(self.text)

    def extend(self, tokens, parents):  # type: ignore[no-untyped-def]
        added = self.nodes.add(parents)
        self.tokens += tokens
        return torch.stack([self._row(self.text + [self.tokens[n] for n in self.nodes.path(node)]) for node in added])


class EnumeratedCoins:
    """Coins that try everything: each run of the program is one branch, with the exact chance of taking it.

    A uniform is known by its name; what is asked of it narrows the interval in which it lies. So a program that asks
    one uniform twice, where two were due, gets answers that depend on each other, as it would with real coins.
    """

    def __init__(self) -> None:
        self.script: list[int] = []  # which branch to take at each question; beyond its end the first

    def branches(self):  # type: ignore[no-untyped-def]
        """Run the body of the loop once for each branch; ``chance`` holds its probability afterwards."""
        self.script = []
        while True:
            self.asked: list[tuple[int, int]] = []  # (taken, number of ways)
            self.intervals: dict[object, tuple[float, float]] = {}
            yield self
            while self.asked and self.asked[-1][0] == self.asked[-1][1] - 1:
                self.asked.pop()
            if not self.asked:
                return
            self.script = [taken for taken, _ in self.asked[:-1]] + [self.asked[-1][0] + 1]

    @property
    def chance(self) -> float:
        product = 1.0
        for low, high in self.intervals.values():
            product *= high - low
        return product

    def _choose(self, name: object, edges: list[float]) -> int:
        """Which of the cells between the edges the uniform falls into."""
        low, high = self.intervals.get(name, (0.0, 1.0))
        cells = [(max(low, a), min(high, b)) for a, b in itertools.pairwise(edges)]
        possible = [index for index, (a, b) in enumerate(cells) if b > a]
        place = len(self.asked)
        taken = self.script[place] if place < len(self.script) else 0
        self.asked.append((taken, len(possible)))
        self.intervals[name] = cells[possible[taken]]
        return possible[taken]

    def accepts(self, probability: float, start: int, node: int) -> tuple[bool, float]:
        from speckd.draws import Stream

        return self._choose((Stream.VERIFY, start, node), [0.0, probability, 1.0]) == 0, 0.5

    def draw(self, weights: Tensor, stream: int, start: int, node: int = 0) -> int:
        cumulative = weights.double().cumsum(0)
        edges = [0.0, *(cumulative / cumulative[-1]).tolist()]
        return self._choose((stream, start, node), edges)
