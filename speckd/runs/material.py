"""The texts of a run: read, written by the teacher where that is asked for, and its hidden states kept.

Several processes: the first one writes, the others wait.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from speckd.conversations import template_switches
from speckd.data import Examples, read_examples
from speckd.evaluation import check_lengths
from speckd.jobs import OnProgress, Progress, Stopped
from speckd.pairs import Pair
from speckd.rollouts import Sampling, is_complete, write_rollouts
from speckd.runs.settings import DistillSettings
from speckd.training.teacher_cache import CacheWriter, example_key, fill_cache, tokenizer_sha256


def has_stopped(stop_file: str | None) -> bool:
    return stop_file is not None and os.path.exists(stop_file)


def is_main_process() -> bool:
    """Whether this is the process that writes: the only one, or the first of several."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_main_process() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


def data_of(
    pair: Pair, settings: DistillSettings, shared: Path, report: OnProgress, stop_file: str | None = None
) -> tuple[Examples, Examples | None, Path | None]:
    """Training examples, held-out examples, and the folder of the teacher cache."""
    reading: dict[str, Any] = {
        "max_length": settings.max_length,
        "on_bad": settings.on_bad,
        "chat_template_kwargs": template_switches(settings.chat_template_kwargs),
        "turns": settings.turns,
    }
    limit = settings.limit
    folder = Path(settings.cache_folder) if settings.cache_folder else shared / "teacher-cache"
    caching = settings.teacher_cache and settings.responses != "student" and not settings.elsewhere
    if settings.responses == "teacher":
        prompts = read_examples(settings.data, pair.tokenizer, needs_response=False, limit=limit, **reading)
        train = _teacher_writes(pair, settings, prompts, shared, folder if caching else None, report, stop_file)
    else:
        needs = settings.responses != "student"  # of a mix, the file has the other share
        train = read_examples(settings.data, pair.tokenizer, needs_response=needs, limit=limit, **reading)
    held_out = None
    if settings.eval_data is not None:
        held_out = read_examples(settings.eval_data, pair.tokenizer, limit=settings.eval_limit, **reading)
    check_lengths(pair, [*train.examples, *(held_out.examples if held_out is not None else [])])
    if not caching:
        return train, held_out, None
    if is_main_process():
        _fill(pair, folder, train, held_out, settings, report)
    wait_for_main_process()
    return train, held_out, folder


def _fill(
    pair: Pair, folder: Path, train: Examples, held_out: Examples | None, settings: DistillSettings, report: OnProgress
) -> None:
    fill_cache(
        folder,
        pair.teacher,
        pair.tokenizer,
        [*train.examples, *(held_out.examples if held_out is not None else [])],
        pair.teacher_sha256,
        batch_size=settings.batch_size,
        on_progress=lambda done, total: report(Progress("teacher", done, total, "teacher's hidden states")),
    )


def fill_teacher_cache(pair: Pair, settings: DistillSettings, on_progress: OnProgress | None = None) -> None:
    """Make the teacher cache that a run with these settings would make, ahead of it.

    Raises:
        ValueError, OSError: as ``distill``.
    """
    if settings.cache_folder and settings.responses == "file":
        data_of(pair, settings, Path(settings.output), on_progress or (lambda _: None))


def _teacher_writes(
    pair: Pair,
    settings: DistillSettings,
    prompts: Examples,
    shared: Path,
    cache: Path | None,
    report: OnProgress,
    stop_file: str | None,
) -> Examples:
    """The teacher's answers to the prompts, made once; with a cache its hidden states are kept as they pass by."""
    file = shared / "responses.jsonl"
    sampling = Sampling(
        do_sample=not settings.greedy,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.response_temperature,
        top_p=settings.top_p,
        seed=settings.response_seed,
    )
    if is_main_process() and not is_complete(file):
        writer = None
        if cache is not None:
            writer = CacheWriter(cache, pair.teacher_sha256, tokenizer_sha256(pair.tokenizer))

        def keep(index: int, answer: Any) -> None:
            example = replace(prompts.examples[index], response_ids=answer.response_ids)
            if writer is not None:
                writer.add(example_key(example), answer.hidden)

        write_rollouts(
            file,
            pair.teacher,
            pair.tokenizer,
            [example.messages for example in prompts.examples],
            [example.prompt_ids for example in prompts.examples],
            sampling,
            extras=[example.extras for example in prompts.examples],
            model_id=pair.teacher_id,
            model_sha256=pair.teacher_sha256,
            batch_size=4 * settings.batch_size,
            vocabulary_size=pair.vocabulary_size,
            on_answer=keep if writer is not None else None,
            on_progress=lambda done, total, _: report(Progress("generate", done, total, "teacher's answers")),
            should_stop=lambda: has_stopped(stop_file),
        )
        if writer is not None:
            writer.flush()
        if not is_complete(file):
            raise Stopped("Stopped while the teacher wrote; its answers so far are kept.")
    wait_for_main_process()
    switches = template_switches(settings.chat_template_kwargs)
    return read_examples(
        file, pair.tokenizer, max_length=settings.max_length, chat_template_kwargs=switches, turns="last"
    )
