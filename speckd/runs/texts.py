"""Texts that a plan asks for and that are made before the runs: written by the teacher, disturbed, or joined.

write = { prompts = "prompts.jsonl", temperature = 1.0, seed = 14 }     the teacher answers the prompts, once
noise = { of = "sampled.jsonl", share = 0.3 }                          a share of the answers belongs to other prompts
join = ["a.jsonl", "b.jsonl"]                                          several files as one
"""

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speckd.data import read_examples
from speckd.files import write_whole
from speckd.pairs import Pair
from speckd.rollouts import Sampling, is_complete, write_rollouts

HOW = ("write", "noise", "join")


def settings_of(text: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan's text means for a run's settings."""
    return {name: value for name, value in text.items() if name not in HOW}


def make_texts(texts: Mapping[str, Mapping[str, Any]], pair: Pair) -> None:
    """Make each text's file where it is not there yet, in the plan's order.

    Raises:
        ValueError: a text says how it is made, and not as which file.
    """
    for name, text in texts.items():
        how = [word for word in HOW if word in text]
        if not how:
            continue
        if len(how) > 1 or "data" not in text:
            raise ValueError(f"the text {name!r} needs one of {', '.join(HOW)}, and data, the file to make.")
        path = Path(text["data"])
        path.parent.mkdir(parents=True, exist_ok=True)
        if how == ["write"]:
            _write(path, pair, dict(text["write"]))
        elif not path.exists():
            rows = (
                with_noise(**text["noise"]) if how == ["noise"] else [row for one in text["join"] for row in _rows(one)]
            )
            write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(path: Path, pair: Pair, asked: dict[str, Any]) -> None:
    if is_complete(path):
        return
    prompts = read_examples(asked.pop("prompts"), pair.tokenizer, needs_response=False).examples
    batch_size = 16 if pair.device.type == "cpu" else 240
    sampling = Sampling(**({"do_sample": True, "max_new_tokens": 96} | asked))
    write_rollouts(
        path,
        pair.teacher,
        pair.tokenizer,
        [example.messages for example in prompts],
        [example.prompt_ids for example in prompts],
        sampling,
        model_id=pair.teacher_id,
        model_sha256=pair.teacher_sha256,
        batch_size=batch_size,
        vocabulary_size=pair.vocabulary_size,
    )


def with_noise(of: str | os.PathLike[str], share: float, seed: int = 0) -> list[dict[str, Any]]:
    """The rows of a file, a share of them with each other's answers.

    Args:
        of: a file of prompts with responses.
        share: of the rows whose answer is to belong to another prompt, 0 to 1.
        seed: chooses them.
    """
    rows = _rows(of)
    chosen = sorted(random.Random(seed).sample(range(len(rows)), round(share * len(rows))))
    answers = [
        {name: rows[i][name] for name in ("response", "response_ids", "finished") if name in rows[i]} for i in chosen
    ]
    for place, index in enumerate(chosen):
        question = {name: value for name, value in rows[index].items() if name not in answers[place]}
        rows[index] = question | answers[(place + 1) % len(chosen)]
    return rows


def _rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """A file's rows in the prompts' order, whatever the order in which a model wrote them."""
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = [row for row in rows if "response" in row]
    return sorted(rows, key=lambda row: row["index"]) if rows and "index" in rows[0] else rows
