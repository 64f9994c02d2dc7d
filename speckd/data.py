"""Prompts and responses into token ids, and into batches that know which tokens are the response.

A line of data is a JSON object in one of these forms:

    {"prompt": "Why is the sky blue?", "response": "Because ..."}
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"messages": [... up to a user's turn], "response": "..."}

Prompts go through the chat template where the tokenizer has one. The response is the assistant's last turn with its
end-of-turn token; what a template writes after that token (a newline, say) belongs to nobody and is left out.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

IGNORED = -100  # label of a token that is no part of the response; the Trainer counts the others
LONGEST = 1024  # tokens of prompt and response together, by default

Messages = list[dict[str, str]]


class BadLine(ValueError):
    """A line of data that cannot be read. The message names the line and what to do."""


@dataclass(frozen=True)
class Example:
    """One prompt with its response, as token ids.

    Attributes:
        prompt_ids: with the template's generation prompt; at least one token.
        response_ids: with the end-of-turn token where the response reached its end. Empty where a model is to write it.
        number: the line or row it came from, from 1; names the example in messages, and its coins in training.
        messages: the prompt as it was given.
        response: the response's text.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    number: int
    messages: Messages = field(default_factory=list)
    response: str = ""


@dataclass(frozen=True)
class Examples:
    """What was read: the examples, the lines that were skipped, and what truncation cut.

    Attributes:
        examples: in the order of the file.
        skipped: (number of the line, reason) of each bad line.
        n_cut: examples whose response was shortened to fit.
        n_cut_tokens: response tokens that were cut from them.
        max_length: the limit that they had to fit.
    """

    examples: list[Example]
    skipped: list[tuple[int, str]]
    n_cut: int
    n_cut_tokens: int
    max_length: int

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def n_response_tokens(self) -> int:
        return sum(len(example.response_ids) for example in self.examples)

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
        return "; ".join(parts)


# --- one example --------------------------------------------------------------------------------------------------


def encode_prompt(tokenizer: Any, messages: Messages) -> list[int]:
    """Token ids of a prompt with its generation prompt; without a chat template, of the last message alone."""
    if tokenizer.chat_template is None:
        return tokenizer(messages[-1]["content"])["input_ids"]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def encode_response(tokenizer: Any, messages: Messages, response: str, finished: bool) -> list[int]:
    """Token ids of a response to a prompt, with the token that ends a turn where ``finished``."""
    ids = tokenizer(response, add_special_tokens=False)["input_ids"]
    return ids + _end_of_turn(tokenizer, messages) if finished else ids


def _end_of_turn(tokenizer: Any, messages: Messages) -> list[int]:
    """What the template writes right after a response, up to its trailing white space; else the end-of-text token."""
    marker = "response"
    if tokenizer.chat_template is not None:
        whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": marker}], tokenize=False)
        tail = whole[whole.rindex(marker) + len(marker) :].strip()
        ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
        if ids and ids[0] in tokenizer.all_special_ids:
            return ids[:1]
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _read_row(row: Any, needs_response: bool) -> tuple[Messages, str | None, bool, list[int] | None]:
    """Messages of the prompt, response, whether it is finished, and its ids where the row keeps them."""
    if not isinstance(row, Mapping):
        raise ValueError("it is not a JSON object")
    messages, response = row.get("messages"), row.get("response")
    if messages is None:
        prompt = row.get("prompt")
        if isinstance(prompt, list):
            messages = prompt
        elif not isinstance(prompt, str) or not prompt.strip():
            raise ValueError('it has neither a "prompt" with text nor "messages"')
        else:
            messages = [{"role": "user", "content": prompt}]
    if not isinstance(messages, list) or not messages:
        raise ValueError('"messages" is not a list of messages')
    for message in messages:
        if not (isinstance(message, Mapping) and isinstance(message.get("role"), str)):
            raise ValueError('a message has no "role"')
        if not isinstance(message.get("content"), str):
            raise ValueError('a message has no "content" with text')
    messages = [{"role": message["role"], "content": message["content"]} for message in messages]
    if response is None and messages[-1]["role"] == "assistant":
        response, messages = messages[-1]["content"], messages[:-1]
    if not messages:
        raise ValueError("there is no prompt before the response")
    if response is not None and not isinstance(response, str):
        raise ValueError('"response" is not text')
    ids = row.get("response_ids")
    kept = list(ids) if isinstance(ids, list) and ids and all(isinstance(token, int) for token in ids) else None
    if needs_response and not (response or "").strip() and (response is None or kept is None):
        raise ValueError("it has no response with text")  # a model's own answer may be its stop token alone
    for text in [*(message["content"] for message in messages), response or ""]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("its text holds half a character (a lone surrogate)") from None
    return messages, response, bool(row.get("finished", True)), kept


def encode_row(
    tokenizer: Any, row: Any, number: int, max_length: int, needs_response: bool = True
) -> tuple[Example, int]:
    """One row of data as an Example, and how many response tokens were cut to fit.

    Raises:
        BadLine: it holds no prompt, no response, or leaves no room for one.
    """
    try:
        messages, response, finished, kept_ids = _read_row(row, needs_response)
    except ValueError as error:
        raise BadLine(f"line {number}: {error}.") from None
    prompt_ids = encode_prompt(tokenizer, messages)
    if not prompt_ids:
        raise BadLine(f"line {number}: its prompt has no tokens.")
    if len(prompt_ids) >= max_length:
        raise BadLine(
            f"line {number}: its prompt has {len(prompt_ids):,} tokens, so max_length {max_length:,} leaves none for a "
            "response. Shorten it, or raise max_length."
        )
    response_ids: list[int] = []
    if response is not None:
        end = _end_of_turn(tokenizer, messages)
        response_ids = encode_response(tokenizer, messages, response, finished)
        if kept_ids is not None:  # the model's own tokens, where they are this tokenizer's tokens of this text
            text_ids = kept_ids[:-1] if finished and kept_ids[-1:] == end else kept_ids
            if max(kept_ids) < len(tokenizer) and tokenizer.decode(text_ids) == response:
                response_ids = kept_ids
    room = max_length - len(prompt_ids)
    n_cut = max(0, len(response_ids) - room)
    return Example(prompt_ids, response_ids[:room], number, messages, response or ""), n_cut


# --- many ---------------------------------------------------------------------------------------------------------


def read_examples(
    source: str | os.PathLike[str] | Iterable[Any],
    tokenizer: Any,
    *,
    max_length: int = LONGEST,
    on_bad: Literal["stop", "skip"] = "stop",
    needs_response: bool = True,
    limit: int | None = None,
) -> Examples:
    """Read prompts and responses.

    Args:
        source: a JSONL file, or rows (a datasets.Dataset, a list of dicts) in the forms at the top of this file.
        tokenizer: the pair's.
        max_length: tokens of prompt and response together; a longer response is cut at its end, a prompt never.
        on_bad: "stop" at the first bad line, or "skip" it and count it.
        needs_response: False where a model is to write the responses.
        limit: read only so many examples.
    Returns:
        Examples, at least one.
    Raises:
        BadLine: a bad line, with its number, where on_bad is "stop".
        ValueError: nothing can be read, or nothing is left.
    """
    if on_bad not in ("stop", "skip"):
        raise ValueError(f"on_bad is {on_bad!r}: choose 'stop' or 'skip'.")
    if max_length < 2:
        raise ValueError(f"max_length is {max_length}: a prompt and a response need two tokens at least.")
    name = f"{source} " if isinstance(source, str | os.PathLike) else ""
    examples: list[Example] = []
    skipped: list[tuple[int, str]] = []
    n_cut = n_cut_tokens = 0
    for number, row in _rows(source):
        if limit is not None and len(examples) >= limit:
            break
        try:
            if isinstance(row, BadLine):
                raise row
            example, cut = encode_row(tokenizer, row, number, max_length, needs_response)
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
    return Examples(examples, skipped, n_cut, n_cut_tokens, max_length)


def _rows(source: str | os.PathLike[str] | Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """(number, row) of each line; a line that is no JSON comes as a BadLine. A rollout file's head and end are not."""
    if not isinstance(source, str | os.PathLike):
        yield from enumerate(source, start=1)
        return
    path = Path(source).expanduser()
    if not path.is_file():
        raise ValueError(f"There is no file {str(source)!r}. Give a JSONL file with one example a line.")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                yield number, BadLine(f"line {number}: it is not UTF-8.")
            except (json.JSONDecodeError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
                yield number, BadLine(f"line {number}: it is not JSON ({reason}).")
            else:
                if isinstance(row, dict) and (row.get("format") == "speckd.rollouts" or set(row) == {"complete"}):
                    continue
                yield number, row


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
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "numbers": torch.tensor([row["number"] for row in rows]),
        "teacher_hidden": [row.get("teacher_hidden") for row in rows],
    }


def response_rows(labels: Tensor) -> Tensor:
    """(B, T-1) bool: the positions whose hidden state predicts a response token, one before the token itself."""
    return labels[:, 1:] != IGNORED


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
