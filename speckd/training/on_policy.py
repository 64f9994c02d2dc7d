"""What is written and asked while a training runs: the student's own responses, and a teacher behind a server."""

from typing import Any

from speckd.data import Example, collate, last_turn_of, uncollate
from speckd.draws import Stream, answer_uniforms, on_policy_coin
from speckd.heads import positions_of
from speckd.pairs import Pair, is_elsewhere
from speckd.rollouts import Sampling, generate_batch


def ask_teacher(batch: dict[str, Any], teacher: Any) -> dict[str, Any]:
    """Of a teacher behind a server: its likeliest tokens for the responses of a batch, in one request."""
    absent = [index for index, told in enumerate(batch["teacher_hidden"]) if told is None]
    if not is_elsewhere(teacher) or not absent:
        return batch
    rows = uncollate(batch)
    asked = [
        Example(
            row["input_ids"][: row["n_prompt"]],
            row["input_ids"][row["n_prompt"] :],
            row["number"],
            trained=row["trained"],
        )
        for row in (rows[index] for index in absent)
    ]
    told = list(batch["teacher_hidden"])
    for index, tokens in zip(absent, teacher.top_tokens(asked), strict=True):
        told[index] = tokens.to(batch["input_ids"].device)
    return {**batch, "teacher_hidden": told}


def let_student_write(batch: dict[str, Any], pair: Pair, args: Any, step: int) -> dict[str, Any]:
    """Replace some examples' responses by the student's own: decided, and drawn, by step and example alone.

    Args:
        batch: from ``collate``. pair: with the student as it is now.
        args: a SpecKDConfig: student_share, the lengths, temperature and seed.
    Returns:
        The batch itself where nothing was replaced, else a new one on the CPU.
    """
    numbers = batch["numbers"].tolist()
    chosen = [
        index for index, number in enumerate(numbers) if on_policy_coin(args.seed, step, number) < args.student_share
    ]
    if not chosen:
        return batch
    rows = uncollate(batch)
    # Of a conversation the student writes the last turn.
    prompts = [rows[index]["input_ids"][: last_turn_of(rows[index])] for index in chosen]
    longest = min(args.max_length, positions_of(pair.student), positions_of(pair.teacher))
    room = longest - max(len(prompt) for prompt in prompts)
    sampling = Sampling(
        do_sample=True,
        max_new_tokens=max(1, min(args.max_new_tokens, room)),
        temperature=args.temperature,
        seed=args.seed,
    )
    written = generate_batch(
        pair.student,
        pair.tokenizer,
        prompts,
        sampling,
        uniforms=[
            answer_uniforms(args.seed, numbers[index], sampling.max_new_tokens, step, Stream.OWN_ANSWER)
            for index in chosen
        ],
        vocabulary_size=pair.vocabulary_size,
    )
    for index, prompt, answer in zip(chosen, prompts, written, strict=True):
        rows[index] |= {
            "input_ids": prompt + answer.response_ids,
            "n_prompt": len(prompt),
            "trained": None,
            "teacher_hidden": None,
        }
    return collate(rows, pair.tokenizer.pad_token_id or 0)
