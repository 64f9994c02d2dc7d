"""The coins of decoding: every uniform has a name, so a record can be made again and no two uses share one.

A uniform is named by the seed, the sequence, the use (drafting, verifying, resampling), the place in the response where
its round starts, and the node in the round. Nothing is ever reseeded.
"""

import torch
from torch import Tensor

from speckd.draws import Stream, draw_tokens, row_uniforms

_BLOCK = 16  # nodes whose uniforms are made at once


class Coins:
    """The uniforms of one sequence.

    Args:
        seed: 0 to 2**63 - 1.
        sequence: which text of the seed this is.
    """

    def __init__(self, seed: int, sequence: int = 0) -> None:
        self.seed, self.sequence = seed, sequence
        self._made: dict[tuple[int, int], list[float]] = {}

    def uniform(self, stream: Stream, start: int, node: int = 0) -> float:
        """The uniform of one use, round and node, in [0, 1)."""
        known = self._made.get((stream, start), [])
        if node >= len(known):
            n_draws = -(-(node + 1) // _BLOCK) * _BLOCK
            names = torch.tensor([self.sequence]), torch.tensor([start])
            known = row_uniforms(self.seed, *names, n_draws, stream=stream)[0, :, 0].tolist()
            self._made = {key: value for key, value in self._made.items() if key[1] == start}  # older rounds are over
            self._made[stream, start] = known
        return known[node]

    def accepts(self, probability: float, start: int, node: int) -> tuple[bool, float]:
        """Whether a drafted node passes with this probability, and the coin that said so."""
        coin = self.uniform(Stream.VERIFY, start, node)
        return coin < probability, coin

    def draw(self, weights: Tensor, stream: Stream, start: int, node: int = 0) -> int:
        """One token from (V,) weights, each row up to a factor, by the inverse of their cumulative sum."""
        uniform = torch.tensor([[self.uniform(stream, start, node)]], dtype=torch.float64, device=weights.device)
        return int(draw_tokens(weights[None], uniform))
