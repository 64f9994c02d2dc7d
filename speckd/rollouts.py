"""Where responses come from: a model answers prompts, in batches, the same answer whatever the batch.

A rollout file is JSON lines: a head that says who answered and how, one line an answer in the order they were made,
and a closing line written last. A file without its closing line is unfinished: asking for it again goes on where it
stopped. An answer keeps its token ids beside its text, since text does not always lead back to the same tokens.
"""

import copy
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from speckd.conversations import stop_token_ids
from speckd.decoding.drafts import Draft
from speckd.decoding.exact import worth_it, write_exactly
from speckd.draws import answer_uniforms, draw_from_nucleus, near_boundary
from speckd.heads import positions_of, trunk_of


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn.

    Attributes:
        do_sample: False is greedy; temperature, top_p and seed then count for nothing.
        max_new_tokens: longest answer, its stop token included.
        temperature: divides the logits, above 0.
        top_p: keeps the fewest most probable tokens whose probability reaches it, 0 (excluded) to 1 (all).
        seed: with a prompt's own number it names the uniforms of one answer, so neither batch nor order changes it.
    Raises:
        ValueError: a value is out of range.
    """

    do_sample: bool = False
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}: an answer has at least one token.")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}: choose one above 0; greedy is do_sample=False.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: choose a number above 0 and up to 1.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}: choose a whole number from 0 to 2**63 - 1.")


@dataclass(frozen=True, eq=False)
class Answer:
    """One answer.

    Attributes:
        response_ids: its token ids, with the stop token where the model emitted it.
        finished: whether it did, or was cut at max_new_tokens.
        hidden: (n, H) float16, the model's last hidden state that predicted each token, where it was asked for. The
            answers of a teacher so fill its cache at no further cost.
    """

    response_ids: list[int]
    finished: bool
    hidden: Tensor | None = None


class _OwnDraws(LogitsProcessor):
    """Leaves one token of each row possible: the one its own uniform picks. So greedy decoding then takes it."""

    def __init__(
        self, sampling: Sampling, uniforms: Sequence[np.ndarray], vocabulary_size: int, prompt_length: int
    ) -> None:
        self.sampling, self.vocabulary_size, self.prompt_length = sampling, vocabulary_size, prompt_length
        self.uniforms = torch.from_numpy(np.stack(uniforms))  # (B, max_new_tokens)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores[:, : self.vocabulary_size]  # padded rows of a head name no token
        if not self.sampling.do_sample:
            return scores
        step = input_ids.shape[1] - self.prompt_length
        drawn = draw_from_nucleus(scores, self.uniforms[:, step], self.sampling.temperature, self.sampling.top_p)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn[:, None].to(scores.device), 0.0)


class _AskToStop(StoppingCriteria):
    def __init__(
        self,
        should_stop: Callable[[], bool] | None,
        on_step: Callable[[list[list[int]]], None] | None,
        prompt_length: int,
    ) -> None:
        self.should_stop, self.on_step, self.prompt_length = should_stop, on_step, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        if self.on_step is not None:
            self.on_step(input_ids[:, self.prompt_length :].tolist())
        stop = self.should_stop is not None and self.should_stop()
        return torch.full((len(input_ids),), stop, dtype=torch.bool, device=input_ids.device)


def _with_settings_of_ours(model: Any) -> Any:
    """The same modules and weights under generation settings that a checkpoint has no word in.

    A checkpoint's generation_config.json fills in whatever a caller leaves open: repetition penalties, cut-offs, bans.
    An answer would then be drawn from another distribution than the model's. The shallow copy leaves the model as it
    is, so that saving it later saves its own settings.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model  # adapters sit on its layers
    plain = copy.copy(base)
    plain.generation_config = GenerationConfig()
    return plain


def check_positions(model: Any, n_prompt: int, n_response: int) -> None:
    """Refuse a text that is longer than a model has positions for: past them its numbers mean nothing.

    Raises:
        ValueError: with the lengths and the limit.
    """
    limit = positions_of(model)
    if n_prompt + n_response > limit:
        raise ValueError(
            f"The text is {n_prompt + n_response:,} tokens long ({n_prompt:,} of them the prompt); "
            f"the model reads at most {limit:,}. Shorten it, or ask for fewer new tokens."
        )


@torch.no_grad()
def generate_batch(
    model: Any,
    tokenizer: Any,
    prompt_ids: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    answers: Sequence[int] | None = None,
    uniforms: Sequence[np.ndarray] | None = None,
    vocabulary_size: int | None = None,
    keep_hidden: bool = False,
    lean: bool = False,
    draft: Draft | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_step: Callable[[list[list[int]]], None] | None = None,
) -> list[Answer]:
    """Let a model answer a few prompts at once: the one place where text is generated.

    Greedy answers are the argmax of the model's own logits; sampled ones are drawn from softmax(logits / temperature),
    cut to the nucleus, by inverse CDF of uniforms that belong to the answer alone.

    Args:
        model: a causal language model; it is put in evaluation mode for the while.
        tokenizer: for its stop and padding tokens.
        prompt_ids: the token ids of each prompt, its generation prompt included; at least one token each.
        sampling: how answers are drawn.
        answers: a number for each prompt that names its uniforms; 0, 1, 2, ... where none are given.
        uniforms: for each prompt the (max_new_tokens,) uniforms themselves, where they are of another stream.
        vocabulary_size: rows of the head that name tokens; all of them where none is given.
        keep_hidden: also return the hidden states that predicted the tokens.
        lean: a single prompt may be answered by the lean forward, the same text up to rounding. It packs a model's
            weights once, so a model whose weights change from answer to answer is better off without.
        draft: then also drafted, the same text again (see ``speckd.decoding.exact``); a batch needs no draft, since its
            prompts share each pass as drafted tokens would.
        should_stop: asked after each token. A stop keeps what was written so far.
        on_step: called with the tokens written so far, a list a prompt, after each token.
    Returns:
        One Answer a prompt, in their order.
    Raises:
        ValueError: a prompt has no token, or leaves the model no position for an answer of max_new_tokens.
    """
    # Long: half of it names its arguments.
    if not prompt_ids:
        return []
    if not all(len(ids) for ids in prompt_ids):
        raise ValueError("a prompt has no token: give each prompt some text.")
    answers = range(len(prompt_ids)) if answers is None else answers
    if uniforms is None:
        uniforms = [answer_uniforms(sampling.seed, answer, sampling.max_new_tokens) for answer in answers]
    check_positions(model, max(len(ids) for ids in prompt_ids), sampling.max_new_tokens)
    stops = stop_token_ids(model, tokenizer)
    if (
        lean
        and len(prompt_ids) == 1
        and (
            alone := _write_one(
                model,
                prompt_ids[0],
                sampling,
                uniforms[0],
                stops,
                vocabulary_size,
                keep_hidden,
                draft,
                should_stop,
                on_step,
            )
        )
    ):
        return [alone]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (stops[0] if stops else 0)
    length = max(len(ids) for ids in prompt_ids)
    # Padding on the left, so that every answer starts in the same column.
    input_ids = torch.tensor([[pad] * (length - len(ids)) + list(ids) for ids in prompt_ids])
    mask = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in prompt_ids])
    head_rows = vocabulary_size or model.get_output_embeddings().weight.shape[0]
    device = model.get_input_embeddings().weight.device
    was_training = model.training
    model.eval()
    kept: list[Tensor] = []  # one (B, H) a token

    def keep(_module: nn.Module, _inputs: object, output: Any) -> None:
        kept.append(output.last_hidden_state[:, -1].to("cpu", torch.float16))

    hook = trunk_of(model).register_forward_hook(keep) if keep_hidden else None
    try:
        written = _with_settings_of_ours(model).generate(
            input_ids=input_ids.to(device),
            attention_mask=mask.to(device),
            generation_config=GenerationConfig(
                do_sample=False,  # our draws leave one token possible
                num_beams=1,
                max_new_tokens=sampling.max_new_tokens,
                pad_token_id=pad,
                eos_token_id=stops or None,
                use_cache=True,
            ),
            logits_processor=LogitsProcessorList([_OwnDraws(sampling, uniforms, head_rows, length)]),
            stopping_criteria=StoppingCriteriaList([_AskToStop(should_stop, on_step, length)]),
        )
    finally:
        model.train(was_training)
        if hook is not None:
            hook.remove()
    hidden = torch.stack(kept, 1) if kept else None  # (B, T, H)
    return [
        _cut_at_stop(row, stops, hidden[index] if hidden is not None else None)
        for index, row in enumerate(written[:, length:].tolist())
    ]


def _write_one(
    model: Any,
    prompt_ids: Sequence[int],
    sampling: Sampling,
    uniforms: np.ndarray,
    stops: Sequence[int],
    vocabulary_size: int | None,
    keep_hidden: bool,
    draft: Draft | None,
    should_stop: Callable[[], bool] | None,
    on_step: Callable[[list[list[int]]], None] | None,
) -> Answer | None:
    """One answer by the fastest way that writes this text; None where transformers' own is that way."""

    def pick(logits: Tensor, place: int) -> int:
        uniform = torch.from_numpy(uniforms[place : place + 1])
        return int(draw_from_nucleus(logits[None], uniform, sampling.temperature, sampling.top_p))

    def near(logits: Tensor, place: int, error: float) -> bool:
        return near_boundary(logits, float(uniforms[place]), sampling.temperature, sampling.top_p, error)

    was_training = model.training
    model.eval()
    try:
        if not worth_it(model, vocabulary_size, draft):
            return None
        written = write_exactly(
            model,
            prompt_ids,
            sampling.max_new_tokens,
            pick=pick if sampling.do_sample else None,
            near=near if sampling.do_sample else None,
            stops=stops,
            vocabulary_size=vocabulary_size,
            draft=draft,
            on_tokens=None if on_step is None else lambda ids: on_step([ids]),
            should_stop=should_stop,
        )
    finally:
        model.train(was_training)
    return Answer(written.ids, written.finished, written.hidden.to("cpu", torch.float16) if keep_hidden else None)


def _cut_at_stop(ids: list[int], stops: Sequence[int], hidden: Tensor | None) -> Answer:
    n_tokens = next((place + 1 for place, token in enumerate(ids) if token in stops), len(ids))
    finished = ids[n_tokens - 1] in stops
    return Answer(ids[:n_tokens], finished, hidden[:n_tokens].clone() if hidden is not None else None)


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of like length, so that little is padded; the longest first, so that memory fails early."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def generate(
    model: Any,
    tokenizer: Any,
    prompt_ids: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    batch_size: int = 16,
    answers: Sequence[int] | None = None,
    vocabulary_size: int | None = None,
    keep_hidden: bool = False,
    should_stop: Callable[[], bool] | None = None,
    on_step: Callable[[list[list[int]]], None] | None = None,
) -> Iterator[tuple[int, Answer]]:
    """Answers to any number of prompts, batch by batch: yields (index of the prompt, its Answer).

    A stop ends the iteration; the batch that was being written is dropped. Other arguments as in generate_batch.
    """
    answers = range(len(prompt_ids)) if answers is None else answers
    for batch in batches_by_length([len(ids) for ids in prompt_ids], batch_size):
        made = generate_batch(
            model,
            tokenizer,
            [prompt_ids[index] for index in batch],
            sampling,
            answers=[answers[index] for index in batch],
            vocabulary_size=vocabulary_size,
            keep_hidden=keep_hidden,
            should_stop=should_stop,
            on_step=on_step,
        )
        if should_stop is not None and should_stop():
            return
        yield from zip(batch, made, strict=True)


# --- files of answers ---------------------------------------------------------------------------------------------

FORMAT = "speckd.rollouts"


def write_rollouts(
    path: str | os.PathLike[str],
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[dict[str, str]]],
    prompt_ids: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    model_id: str,
    model_sha256: str,
    batch_size: int = 16,
    vocabulary_size: int | None = None,
    extras: Sequence[dict[str, Any]] | None = None,
    on_answer: Callable[[int, Answer], None] | None = None,
    on_progress: Callable[[int, int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Path:
    """Write a model's answers to a file, going on where an unfinished file of the same request stopped.

    Args:
        path: the file; its folder is made.
        prompts: the chat messages of each prompt, as they are to stand in the file.
        prompt_ids: the same prompts as token ids.
        model_id, model_sha256: written into the head; a file of another model is refused.
        extras: what each prompt gave to the chat template beside its messages; kept in the file, as it is read again.
        on_answer: called with (index of the prompt, its answer with hidden states) before the answer is written.
        on_progress: called with (answers made, answers asked for, tokens made in this call) after each batch.
        should_stop: asked after each token; what is finished stays in the file.
    Returns:
        The path. ``is_complete`` tells whether every answer is there.
    Raises:
        ValueError: the file holds the answers to another request.
    """
    # Long: half of it names its arguments.
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {
        "format": FORMAT,
        "version": 1,
        "model": model_id,
        "model_sha256": model_sha256,
        "n_prompts": len(prompts),
        **asdict(sampling),
    }
    done = _read_unfinished(path, head)
    if done is None:
        return path
    todo = [index for index in range(len(prompts)) if index not in done]
    n_done, n_tokens = len(done), 0
    with path.open("a", encoding="utf-8") as file:
        if not path.stat().st_size:
            _write_line(file, head)
        answered = generate(
            model,
            tokenizer,
            [prompt_ids[index] for index in todo],
            sampling,
            batch_size=batch_size,
            answers=todo,
            vocabulary_size=vocabulary_size,
            keep_hidden=on_answer is not None,
            should_stop=should_stop,
        )
        for place, answer in answered:
            index = todo[place]
            if on_answer is not None:
                on_answer(index, answer)
            text_ids = answer.response_ids[:-1] if answer.finished else answer.response_ids
            _write_line(
                file,
                {
                    "index": index,
                    "messages": [dict(message) for message in prompts[index]],
                    **(extras[index] if extras is not None else {}),
                    "response": tokenizer.decode(text_ids, skip_special_tokens=False),
                    "response_ids": answer.response_ids,
                    "finished": answer.finished,
                },
            )
            n_done, n_tokens = n_done + 1, n_tokens + len(answer.response_ids)
            if on_progress is not None:
                on_progress(n_done, len(prompts), n_tokens)
        if n_done == len(prompts):
            _write_line(file, {"complete": n_done})
    return path


def _write_line(file, row: dict) -> None:  # type: ignore[no-untyped-def]
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()


def _read_unfinished(path: Path, head: dict) -> set[int] | None:
    """The answers that a file already holds; None where it is complete. A last line cut short is taken away."""
    if not path.exists() or not path.stat().st_size:
        return set()
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    begins = json.dumps({"format": FORMAT})[:-1].encode()
    lines: list[dict[str, Any]] | None
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
    except ValueError:
        lines = None
    if lines is None or raw[: len(begins)] != begins[: len(raw)]:  # somebody's own file is never cut or written into
        raise ValueError(f"{path} is no file of answers, or a damaged one: choose another file, or remove that one.")
    if lines and lines[0] != head:
        differing = sorted(key for key in head if lines[0].get(key) != head[key])
        raise ValueError(
            f"{path} holds the answers to another request: its {', '.join(differing) or 'head'} differ. "
            "Choose another file, or remove that one."
        )
    if len(whole) < len(raw):  # the writer was killed in the middle of a line
        with path.open("r+b") as file:
            file.truncate(len(whole))
    if lines and "complete" in lines[-1]:
        return None
    return {line["index"] for line in lines[1:]}


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Whether a rollout file has its closing line."""
    path = Path(path)
    if not path.exists():
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 200))
        tail = file.read()
    return tail.endswith(b"}\n") and b'\n{"complete": ' in tail
