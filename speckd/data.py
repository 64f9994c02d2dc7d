"""Prompts and responses into token ids, and into batches that know which tokens are the response.

Where rows come from stands in ``data_files.py``, what a row may look like in ``forms.py``, and how a conversation
becomes token ids in ``conversations.py``. A response is what the template writes for the assistant's turn, its
end-of-turn token included.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from speckd.conversations import (
    Encoded,
    Turns,
    encode_conversation,
    encode_prompt,
    end_of_turn_ids,
)
from speckd.data_files import rows_of
from speckd.forms import BadLine, Row, read_row
from speckd.templates import Messages, leaves_out

IGNORED = -100  # label of a token that is no part of the response; the Trainer counts the others
LONGEST = 1024  # tokens of prompt and response together, by default


@dataclass(frozen=True)
class Example:
    """One prompt with its response, as token ids.

    Attributes:
        prompt_ids: with the template's generation prompt; at least one token.
        response_ids: with the end-of-turn token where the response reached its end. Empty where a model is to write it.
        number: the line or row it came from, from 1; names the example in messages, and its coins in training.
        messages: the prompt as it was given; in a conversation of several turns, all that stands before the last.
        response: the response's text, of the last turn.
        trained: which response tokens an assistant wrote; None where all of them. The others are turns in between.
        extras: the row's own "tools" and "chat_template_kwargs".
    """

    prompt_ids: list[int]
    response_ids: list[int]
    number: int
    messages: Messages = field(default_factory=list)
    response: str = ""
    trained: list[bool] | None = None
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def n_trained(self) -> int:
        """Response tokens that count in the loss."""
        return len(self.response_ids) if self.trained is None else sum(self.trained)


@dataclass(frozen=True)
class Examples:
    """What was read: the examples, the lines that were skipped, and what truncation cut.

    Attributes:
        examples: in the order of the file.
        skipped: (number of the line, reason) of each bad line.
        n_cut: examples whose response was shortened to fit.
        n_cut_tokens: response tokens that were cut from them.
        max_length: the limit that they had to fit.
        note: what else a person should know of the reading.
    """

    examples: list[Example]
    skipped: list[tuple[int, str]]
    n_cut: int
    n_cut_tokens: int
    max_length: int
    note: str = ""

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def n_response_tokens(self) -> int:
        return sum(example.n_trained for example in self.examples)

    def summary(self) -> str:
        """One line for a person: how much there is, and what was left out."""
        parts = [f"{len(self.examples):,} examples, {self.n_response_tokens:,} response tokens"]
        if self.n_cut:
            parts.append(
                f"{self.n_cut_tokens:,} tokens cut from the end of {self.n_cut:,} responses to fit {self.max_length:,}"
            )
        if self.skipped:
            lines = ", ".join(str(number) for number, _ in self.skipped[:5]) + (
                ", ..." if len(self.skipped) > 5 else ""
            )
            parts.append(f"{len(self.skipped):,} bad lines skipped ({lines}; the first: {self.skipped[0][1]})")
        return "; ".join([*parts, *([self.note] if self.note else [])])


# --- one example --------------------------------------------------------------------------------------------------


def encode_row(
    tokenizer: Any,
    row: Any,
    number: int,
    max_length: int,
    needs_response: bool = True,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    turns: Turns = "all",
) -> tuple[Example, int]:
    """One row of data as an Example, and how many response tokens were cut to fit.

    Raises:
        BadLine: it holds no prompt, no response, or leaves no room for one.
    """
    try:
        read = read_row(row, needs_response)
        prompt, response = read.prompt, read.response
        switches = {**(chat_template_kwargs or {}), **read.chat_template_kwargs}
        kept = _kept_ids(tokenizer, read, switches)
        if kept is not None:
            encoded = Encoded(encode_prompt(tokenizer, prompt, switches, read.tools), kept)
        elif response is None:
            encoded = Encoded(encode_prompt(tokenizer, prompt, switches, read.tools), [])
        else:
            encoded = encode_conversation(
                tokenizer,
                [*prompt, response],
                switches,
                read.tools,
                turns=turns if needs_response else "last",
                finished=read.finished,
            )
    except ValueError as error:
        raise BadLine(f"line {number}: {error}.") from None
    prompt_ids, response_ids = encoded.prompt_ids, encoded.response_ids
    if not prompt_ids:
        raise BadLine(f"line {number}: its prompt has no tokens.")
    if len(prompt_ids) >= max_length:
        raise BadLine(
            f"line {number}: its prompt has {len(prompt_ids):,} tokens, so max_length {max_length:,} leaves none for a "
            "response. Shorten it, or raise max_length."
        )
    room = max_length - len(prompt_ids)
    n_cut = max(0, len(response_ids) - room)
    trained = None if encoded.trained is None else encoded.trained[:room]
    said = (response or {}).get("content") or ""
    return Example(prompt_ids, response_ids[:room], number, prompt, said, trained, read.extras), n_cut


def _kept_ids(tokenizer: Any, read: Row, switches: Mapping[str, Any]) -> list[int] | None:
    """The model's own tokens of its answer, where they are this tokenizer's tokens of this text."""
    ids = read.response_ids
    if ids is None or read.response is None or max(ids) >= len(tokenizer) or min(ids) < 0:
        return None
    ends = {*end_of_turn_ids(tokenizer), tokenizer.eos_token_id}
    text_ids = ids[:-1] if read.finished and ids[-1] in ends else ids
    return ids if tokenizer.decode(text_ids) == read.response["content"] else None


# --- many ---------------------------------------------------------------------------------------------------------


def read_examples(
    source: str | os.PathLike[str] | Iterable[Any],
    tokenizer: Any,
    *,
    max_length: int = LONGEST,
    on_bad: Literal["stop", "skip"] = "stop",
    needs_response: bool = True,
    limit: int | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    turns: Turns = "all",
    split: str | None = None,
) -> Examples:
    """Read prompts and responses.

    Args:
        source: a file (JSONL, JSON, CSV, Parquet, also packed) or a folder of them, a data set's id on the Hub, or
            rows: a list of dicts, a table, a datasets.Dataset, IterableDataset or DatasetDict.
        tokenizer: the pair's.
        max_length: tokens of prompt and response together; a longer response is cut at its end, a prompt never.
        on_bad: "stop" at the first bad line, or "skip" it and count it.
        needs_response: False where a model is to write the responses.
        limit: read only so many examples; no more of the source is then read.
        chat_template_kwargs: switches of the chat template, such as {"enable_thinking": False}; a row may have its own.
        turns: "all" turns of the assistant in a conversation are trained, or the "last" alone.
        split: which one, of a source that has several; by default "train", or the only one.
    Returns:
        Examples, at least one.
    Raises:
        BadLine: a bad line, with its number, where on_bad is "stop".
        ValueError: nothing can be read, or nothing is left.
    """
    if turns not in ("all", "last"):
        raise ValueError(f"turns is {turns!r}: choose 'all' or 'last'.")
    if on_bad not in ("stop", "skip"):
        raise ValueError(f"on_bad is {on_bad!r}: choose 'stop' or 'skip'.")
    if max_length < 2:
        raise ValueError(f"max_length is {max_length}: a prompt and a response need two tokens at least.")
    name = f"{source} " if isinstance(source, str | os.PathLike) else ""
    examples: list[Example] = []
    skipped: list[tuple[int, str]] = []
    n_cut = n_cut_tokens = 0
    for number, row in rows_of(source, split):
        if limit is not None and len(examples) >= limit:
            break
        try:
            if isinstance(row, BadLine):
                raise row
            example, cut = encode_row(tokenizer, row, number, max_length, needs_response, chat_template_kwargs, turns)
            if needs_response and not example.n_trained:
                raise BadLine(f"line {number}: within max_length {max_length:,} it has no token to train on.")
        except BadLine as error:
            if on_bad == "stop":
                raise BadLine(f"{name}{error} Mend the line, or skip bad lines with on_bad='skip'.") from None
            skipped.append((number, str(error).split(": ", 1)[1].rstrip(".")))
            continue
        examples.append(example)
        n_cut, n_cut_tokens = n_cut + (cut > 0), n_cut_tokens + cut
    if not examples:
        why = f" All {len(skipped)} lines are bad; the first: {skipped[0][1]}." if skipped else " It is empty."
        raise ValueError(f"{name or 'the data '}holds no example.{why}")
    return Examples(
        examples,
        skipped,
        n_cut,
        n_cut_tokens,
        max_length,
        _note(examples, tokenizer, turns if needs_response else "last"),
    )


def _note(examples: Sequence[Example], tokenizer: Any, turns: Turns) -> str:
    """What else a person should know of a reading: which turns are trained, and where they stand."""
    notes = []
    answered = [sum(message["role"] == "assistant" for message in example.messages) + 1 for example in examples]
    if several := sum(n_turns > 1 for n_turns in answered):
        trained = "all turns of the assistant are trained" if turns == "all" else "only the assistant's last turn is"
        notes.append(f"{several:,} conversations of several answers: {trained}")
    given = [message for example in examples for message in example.messages]
    for what, words in (("system", "system texts"), ("tool", "results of tools"), ("tool_calls", "calls of tools")):
        if any(message["role"] == what or message.get(what) for message in given) and leaves_out(tokenizer, what):
            notes.append(f"the chat template leaves {words} out")
    if tokenizer.chat_template is None and any(len(example.messages) > 1 for example in examples):
        notes.append("no chat template: turns stand behind one another")
    return "; ".join(notes)


class ResponseDataset(Dataset):
    """Examples as the Trainer takes them, with the teacher's hidden states where a cache holds them.

    Args:
        examples: from ``read_examples``.
        teacher_cache: anything with ``rows(example) -> (n, H)``, such as a TeacherCache.
    """

    def __init__(self, examples: Sequence[Example], teacher_cache: Any | None = None) -> None:
        self.examples, self.teacher_cache = list(examples), teacher_cache

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.examples[index]
        hidden = self.teacher_cache.rows(example) if self.teacher_cache is not None else None
        return {
            "input_ids": example.prompt_ids + example.response_ids,
            "n_prompt": len(example.prompt_ids),
            "trained": example.trained,
            "number": example.number,
            "teacher_hidden": hidden,
        }


def collate(rows: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Any]:
    """A batch, padded on the right.

    Returns:
        input_ids, attention_mask: (B, T). labels: (B, T), the response's own tokens and IGNORED elsewhere.
        numbers: (B,) the examples' numbers. teacher_hidden: B entries, (n, H) or None.
    """
    length = max(len(row["input_ids"]) for row in rows)
    input_ids = torch.full((len(rows), length), pad_id)
    attention_mask = torch.zeros((len(rows), length), dtype=torch.int64)
    labels = torch.full((len(rows), length), IGNORED)
    for index, row in enumerate(rows):
        ids = torch.tensor(row["input_ids"])
        input_ids[index, : len(ids)] = ids
        attention_mask[index, : len(ids)] = 1
        labels[index, row["n_prompt"] : len(ids)] = ids[row["n_prompt"] :]
        if row.get("trained") is not None:
            labels[index, row["n_prompt"] : len(ids)][~torch.tensor(row["trained"])] = IGNORED
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "numbers": torch.tensor([row["number"] for row in rows]),
        "teacher_hidden": [row.get("teacher_hidden") for row in rows],
    }


def uncollate(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a batch, as ``collate`` takes them."""
    rows = []
    for index, number in enumerate(batch["numbers"].tolist()):
        length = int(batch["attention_mask"][index].sum())
        marks = (batch["labels"][index, :length] != IGNORED).tolist()
        n_prompt = marks.index(True) if any(marks) else length
        rows.append(
            {
                "input_ids": batch["input_ids"][index, :length].tolist(),
                "n_prompt": n_prompt,
                "trained": None if all(marks[n_prompt:]) else marks[n_prompt:],
                "number": number,
                "teacher_hidden": batch["teacher_hidden"][index],
            }
        )
    return rows


def last_turn_of(row: Mapping[str, Any]) -> int:
    """Where the last trained turn of a row begins."""
    trained = row["trained"]
    if trained is None:
        return row["n_prompt"]
    start = len(trained) - trained[::-1].index(True)  # behind the last trained token
    while start and trained[start - 1]:
        start -= 1
    return row["n_prompt"] + start


def response_rows(labels: Tensor) -> Tensor:
    """(B, T-1) bool: the positions whose hidden state predicts a response token, one before the token itself."""
    return labels[:, 1:] != IGNORED


def positions_before(rows: Tensor) -> Tensor:
    """(B, T-1) rows as (B, T) positions: the last position of a text predicts nothing that is in it."""
    return torch.nn.functional.pad(rows, (0, 1))


def row_names(labels: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The sequence and the place within its response of each response row: two (N,) tensors that name its coins."""
    rows = response_rows(labels)  # (B, T-1)
    sequences = numbers[:, None].expand_as(rows)[rows]
    positions = (rows.cumsum(-1) - 1)[rows]
    return sequences, positions


class ShuffledByLength(Sampler[int]):
    """A shuffled order whose batches hold texts of like length, the same for a seed and an epoch, always.

    Only whole steps: the examples left over (others in each epoch) wait. The order depends on the size of one
    *optimizer* step alone, so splitting that step among processes or accumulated batches moves no example to another.

    Args:
        lengths: tokens of each example.
        step_size: examples of one optimizer step, over all processes and accumulated batches.
        seed: names the order.
        group: examples of like length are looked for among so many steps; 1 shuffles plainly.
    """

    def __init__(self, lengths: Sequence[int], step_size: int, seed: int, group: int = 16) -> None:
        self.lengths, self.step_size, self.seed, self.group = list(lengths), max(1, step_size), seed, max(1, group)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) // self.step_size * self.step_size or len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        n_whole = len(self)  # a step that would not be full is left to the next epoch's order: other texts each time
        steps: list[list[int]] = []
        for start in range(0, n_whole, self.step_size * self.group):
            pool = order[start : min(start + self.step_size * self.group, n_whole)]
            pool.sort(key=lambda index: -self.lengths[index])
            steps += [pool[at : at + self.step_size] for at in range(0, len(pool), self.step_size)]
        for index in torch.randperm(len(steps), generator=generator).tolist():
            yield from steps[index]


# --- tokens as a person reads them ---------------------------------------------------------------------------------


def token_text(tokenizer: Any, token_id: int) -> str:
    """One token as a person reads it; a token that is only part of a character shows its bytes, as ``<F0 9F>``."""
    raw = tokenizer.convert_ids_to_tokens(token_id)
    if raw is None:  # a padded row that the tokenizer does not know
        return f"<{token_id}>"
    if "▁" in raw:  # SentencePiece writes a space so, and decoding one token alone would drop it
        return raw.replace("▁", " ")
    text = tokenizer.decode([token_id])
    if "�" not in text:
        return text
    if piece := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", raw):  # SentencePiece's byte fallback
        return f"<{piece[1].upper()}>"
    try:
        return "<" + " ".join(f"{_BYTE_OF[letter]:02X}" for letter in raw) + ">"
    except KeyError:
        return raw


def _byte_letters() -> dict[str, int]:
    """The letters by which byte-level BPE writes the 256 bytes (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_letters()
