"""The probe: one held-out response measured again and again while a student trains, so that its gating can be watched.

It looks and never touches: no gradient, no draw from a global generator, and the student's mode is put back. So a run
with a probe has the very losses of the run without.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from speckd.data import Example
from speckd.divergences import divergence_named, tvd
from speckd.draws import K_MAX, draw_and_verify, row_uniforms
from speckd.files import rounded
from speckd.heads import Head
from speckd.inspection import response_hidden, token_text
from speckd.pairs import Pair
from speckd.ranks import rank_of
from speckd.rollouts import Sampling, generate_batch

SHORTEST, LONGEST = 24, 48  # response tokens: enough to see a pattern, few enough to fit a screen and a step


def choose_probe(examples: Sequence[Example]) -> Example | None:
    """The first example with a response of a fitting length; else the first that has one, cut at ``LONGEST`` tokens."""
    told = [example for example in examples if example.response_ids]
    for example in told:
        if SHORTEST <= len(example.response_ids) <= LONGEST:
            return example
    return next((example for example in told if len(example.response_ids) > LONGEST), told[0] if told else None)


class Probe:
    """One response under a pair whose student changes.

    Args:
        pair: its student is measured as it is at the moment of asking.
        example: prompt and response; at most ``LONGEST`` response tokens count.
        divergence, temperature, seed: as in training; the seed names the draws and their coins.
    """

    def __init__(
        self, pair: Pair, example: Example, *, divergence: str = "forward_kl", temperature: float = 1.0, seed: int = 0
    ) -> None:
        self._pair, self._temperature = pair, temperature
        self._divergence = divergence_named(divergence)
        response = list(example.response_ids[:LONGEST])
        self.prompt = next((m["content"] for m in reversed(example.messages) if m["role"] == "user"), "")
        self.n_prompt = len(example.prompt_ids)
        self.input_ids = torch.tensor([*example.prompt_ids, *response], device=pair.device)  # (T,)
        self.tokens = [token_text(pair.tokenizer, token) for token in response]
        n = len(response)
        self._uniforms = row_uniforms(seed, torch.zeros(n, dtype=torch.int64), torch.arange(n), K_MAX)  # (N, K, 2)
        with torch.no_grad():
            self._teacher = self._logprobs(pair.teacher)  # (N, V)

    def describe(self) -> dict[str, Any]:
        """Prompt, response tokens, and the teacher's entropy at each in nats."""
        entropy = -(self._teacher.exp() * self._teacher).sum(-1)
        return {"prompt": self.prompt, "tokens": self.tokens, "teacher_entropy": rounded(entropy)}

    def answer(self, longest: int) -> str:
        """The student's greedy answer to the prompt, at most so many tokens, as it is at this moment."""
        student = self._pair.student
        was_training = student.training
        sampling = Sampling(do_sample=False, max_new_tokens=longest, temperature=self._temperature)
        try:
            written = generate_batch(
                student,
                self._pair.tokenizer,
                [self.input_ids[: self.n_prompt].tolist()],
                sampling,
                vocabulary_size=self._pair.vocabulary_size,
            )
        finally:
            student.train(was_training)
        return self._pair.tokenizer.decode(written[0].response_ids, skip_special_tokens=True)

    @torch.no_grad()
    def measure(self) -> dict[str, Any]:
        """What the student of this moment makes of it: lists over the N response tokens.

        Returns:
            topk_threshold, speck_threshold: smallest k that accepts (see ``Trace``). divergence: nats. tvd: 0 to 1.
            proposal: text of the student's most probable token.
        """
        student = self._pair.student
        was_training = student.training
        student.eval()
        try:
            logprobs = self._logprobs(student)  # (N, V)
        finally:
            student.train(was_training)
        proposals = logprobs.argmax(-1, keepdim=True)  # (N, 1)
        draws = draw_and_verify(self._teacher, logprobs, self._uniforms.to(logprobs.device))
        return {
            "topk_threshold": rank_of(self._teacher, proposals)[:, 0].tolist(),
            "speck_threshold": draws.threshold().tolist(),
            "divergence": rounded(self._divergence(self._teacher, logprobs)),
            "tvd": rounded(tvd(self._teacher, logprobs)),
            "proposal": [token_text(self._pair.tokenizer, token) for token in proposals[:, 0].tolist()],
        }

    def _logprobs(self, model: Any) -> torch.Tensor:
        hidden = response_hidden(model, self.input_ids[None], self.n_prompt)
        logits = Head.of(model).logits(hidden)[:, : self._pair.vocabulary_size]
        return (logits.float() / self._temperature).log_softmax(-1)


class ProbeCallback(TrainerCallback):
    """Looks at the probe now and then, and after the last step.

    Args:
        looks: (n, what to do) pairs: each is called with the step after every n-th one and after the last.
    """

    def __init__(self, looks: Sequence[tuple[int, Callable[[int], None]]]) -> None:
        self._looks = tuple(looks)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        last = state.global_step >= state.max_steps or control.should_training_stop
        for every, look in self._looks if state.is_world_process_zero else ():
            if last or state.global_step % every == 0:
                look(state.global_step)
