"""What a decoding is compared with: the plain loop over the same text, and what the draft would have said elsewhere."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from speckd.decoding.drafts import Draft, Fitted
from speckd.decoding.policies import Plain
from speckd.decoding.record import CONTINUATION
from speckd.decoding.recording import Decoding
from speckd.decoding.rounds import Rounds, Rule, log_softmax
from speckd.decoding.verification import probabilities
from speckd.draws import Stream
from speckd.jobs import ShouldStop, Stopped


class PlainBeside:
    """Our own plain loop over the same text, a few tokens at a time between the rounds.

    A sampled text is another one each time, so there the given tokens are followed, each after a draw of its own.

    Args:
        job: beside which it runs, and which is told its seconds and what it wrote.
        should_stop: asked while the prompt is read; the few tokens of a round are caught up with in any case, so that
            what is kept of a stopped text has its clock.
    """

    def __init__(self, job: Decoding, should_stop: ShouldStop | None = None) -> None:
        self.job, coins = job, job.rule.coins

        def follow(logits: Tensor, place: int) -> int:
            assert coins is not None
            coins.draw(probabilities(logits, job.rule.temperature), Stream.RESAMPLE, place)
            return job.output_ids[place]

        def reading() -> bool:
            return not self._written and should_stop is not None and should_stop()

        rule = Rule(near_tie=-1.0) if coins is None else Rule(pick=follow, temperature=job.rule.temperature)
        run = Rounds(job.target.fresh(), None, rule, Plain(), job.prompt_ids, 2**31, should_stop=reading)
        self._steps = iter(run)
        self._written: list[int] = []
        self._seconds = 0.0

    def catch_up(self) -> None:
        """Write as many tokens as the text has by now."""
        job = self.job
        while len(self._written) < len(job.output_ids):
            done = next(self._steps)
            self._seconds += done.draft_seconds + done.verify_seconds
            self._written += done.output
        job.plain_seconds, job.plain_ids = self._seconds, list(self._written)


def continue_everywhere(
    fitted: Fitted, prompt_ids: Sequence[int], job: Decoding, should_stop: ShouldStop
) -> list[list[list[float]]]:
    """For each place of the response, what the draft would say from there on: [token, q, confidence], 8 deep.

    A greedy chain policy reads nothing else, so it is replayed from these without a model.
    """
    assert fitted.draft is not None
    draft, temperature = fitted.draft.fresh(), job.request.temperature
    features = None
    if draft.wants_features:
        target = job.target.fresh()
        zeros = torch.zeros((1, target.width), dtype=target.dtype, device=target.device)
        read = [zeros, target.feed(prompt_ids[:-1])] if len(prompt_ids) > 1 else [zeros]
        features = [torch.cat(read), *torch.cat(job.hidden).split(1)]
    rows = []
    news: Sequence[int] = prompt_ids
    for place in range(len(job.output_ids)):
        if should_stop():
            raise Stopped
        row = draft.commit(news, features[place] if features is not None else None, [])
        rows.append(_one_chain(draft, row, temperature))
        news = job.output_ids[place : place + 1]
    return rows


def _one_chain(draft: Draft, row: Tensor | None, temperature: float) -> list[list[float]]:
    said: list[list[float]] = []
    while row is not None and len(said) < CONTINUATION and not bool(torch.isneginf(row).all()):
        logprobs = log_softmax(row, temperature)
        place = int(logprobs.argmax())
        token = place if draft.vocabulary is None else int(draft.vocabulary[place])
        confidence = float(logprobs[place].exp())
        said.append([token, math.exp(float(logprobs[place])), confidence])
        if len(said) < CONTINUATION:
            row = draft.extend([token], [len(said) - 2])[0]
    return said
