"""The teacher's last hidden state of each response row, kept on disk: later epochs need no pass of the teacher's trunk.

Only the hidden state is kept, (n, H) half precision, not the logits: those are computed again through the teacher's own
head, over the whole vocabulary. Each answer is found by a checksum of its token ids, so a cache serves any
selection of the examples it was made from, in any order, and refuses a text that it does not hold.

A cache is a folder of shards. A shard is written under a temporary name and renamed, so that it is whole or absent; an
interrupted making goes on with the shards that are there.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from speckd.data import Example, collate, positions_before, response_rows
from speckd.files import write_whole
from speckd.heads import hidden_rows

FORMAT = "speckd.training.teacher_cache"
SHARD_ROWS = 16_384  # rows a shard: 19 MB at H = 576, so an interrupted making loses little
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class CacheMismatch(ValueError):
    """A cache belongs to another teacher, tokenizer or text. The message says which."""


def example_key(example: Example) -> str:
    """The checksum by which an answer is found: of its prompt's and its response's token ids, and which are trained."""
    ids = np.array([len(example.prompt_ids), *example.prompt_ids, *example.response_ids], dtype="<i4")
    marks = b"" if example.trained is None else bytes(example.trained)
    return hashlib.sha256(ids.tobytes() + marks).hexdigest()


def tokenizer_sha256(tokenizer: Any) -> str:
    """The checksum of a vocabulary: token ids mean nothing under another one."""
    listing = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]), ensure_ascii=True)
    return hashlib.sha256(listing.encode()).hexdigest()


class CacheWriter:
    """Adds answers to a cache, shard by shard. Use as a context manager: leaving it writes what is left.

    Args:
        folder: the cache; made if needed, continued if there.
        teacher_sha256, tokenizer_checksum: whose hidden states these are.
        dtype: "float16" (11 bits of precision, up to 65,504) or "bfloat16" (8 bits, any size).
    Raises:
        CacheMismatch: the folder holds another teacher's cache.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        teacher_sha256: str,
        tokenizer_checksum: str,
        dtype: str = "float16",
        shard_rows: int = SHARD_ROWS,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype of a teacher cache is {dtype!r}: choose 'float16' or 'bfloat16'.")
        self.folder, self.dtype, self.shard_rows = Path(folder), dtype, shard_rows
        self.head = {
            "format": FORMAT,
            "version": 1,
            "teacher_sha256": teacher_sha256,
            "tokenizer_sha256": tokenizer_checksum,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        head_file = self.folder / "cache.json"
        if head_file.exists():
            _check_head(self.folder, self.head)
        else:
            write_whole(head_file, json.dumps(self.head, indent=2) + "\n")
        self.held = set(_index(self.folder))
        self.pending: list[tuple[str, Tensor]] = []
        self.n_pending = 0

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, key: str, hidden: Tensor) -> None:
        """Keep the (n, H) hidden states of one answer."""
        if key in self.held or not len(hidden):
            return
        kept = hidden.detach().to("cpu", DTYPES[self.dtype])
        if not kept.isfinite().all():
            raise ValueError(
                f"the teacher's hidden state does not fit {self.dtype}: it is not finite there. "
                "Choose dtype 'bfloat16' for the cache, or check the teacher's weights."
            )
        self.held.add(key)
        self.pending.append((key, kept))
        self.n_pending += len(kept)
        if self.n_pending >= self.shard_rows:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting as one shard."""
        if not self.pending:
            return
        rows, index = [], {}
        at = 0
        for key, hidden in self.pending:
            index[key] = [at, len(hidden)]
            at += len(hidden)
            rows.append(hidden)
        # The shard is named by what it holds, so that two processes that fill one cache never write the same file.
        name = hashlib.sha256("".join(index).encode()).hexdigest()[:16]
        target = self.folder / f"shard-{name}.safetensors"
        partial = self.folder / f".{target.name}.{os.getpid()}.tmp"
        try:
            save_file({"hidden": torch.cat(rows)}, str(partial), metadata={"index": json.dumps(index)})
            os.replace(partial, target)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise OSError(
                f"the teacher cache {self.folder} cannot be written ({getattr(error, 'strerror', None) or error}): "
                "free some space, or choose another folder. What is whole in it stays usable."
            ) from error
        self.pending, self.n_pending = [], 0


def _check_head(folder: Path, expected: dict[str, Any]) -> None:
    try:
        head = json.loads((folder / "cache.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CacheMismatch(f"{folder} is not a teacher cache: it has no cache.json.") from None
    except ValueError:
        raise CacheMismatch(f"{folder} is not a teacher cache: its cache.json cannot be read.") from None
    if head.get("format") != FORMAT or head.get("version") != expected["version"]:
        raise CacheMismatch(f"{folder} is a teacher cache of another format. Remove it, or choose another folder.")
    for name, what in (("teacher_sha256", "teacher"), ("tokenizer_sha256", "tokenizer")):
        if head.get(name) != expected[name]:
            raise CacheMismatch(
                f"the teacher cache {folder} belongs to another {what} (sha256 {str(head.get(name))[:12]}, this one is "
                f"{expected[name][:12]}). Remove it, or choose another folder."
            )


def _index(folder: Path) -> dict[str, tuple[Path, int, int]]:
    """Every whole answer in a cache: key -> (shard, first row, number of rows)."""
    index: dict[str, tuple[Path, int, int]] = {}
    for shard in sorted(folder.glob("shard-*.safetensors")):
        try:
            with safe_open(str(shard), framework="pt") as tensors:
                rows = json.loads(tensors.metadata()["index"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CacheMismatch(f"{shard} is damaged: remove it, and that part is made again.") from error
        index |= {key: (shard, start, length) for key, (start, length) in rows.items()}
    return index


class TeacherCache:
    """Reads a cache, memory-mapped: a batch touches only its own rows.

    Args:
        folder: the cache.
        teacher_sha256, tokenizer_checksum: of the teacher and tokenizer that are to be used with it.
    Raises:
        CacheMismatch: it belongs to others, or is no cache.
    """

    def __init__(self, folder: str | os.PathLike[str], teacher_sha256: str, tokenizer_checksum: str) -> None:
        self.folder = Path(folder)
        head = {"version": 1, "teacher_sha256": teacher_sha256, "tokenizer_sha256": tokenizer_checksum}
        _check_head(self.folder, head)
        self.index = _index(self.folder)
        self._open: dict[Path, Any] = {}

    def __getstate__(self) -> dict[str, Any]:  # for data loaders' worker processes: each opens the files itself
        return {**self.__dict__, "_open": {}}

    def __contains__(self, example: Example) -> bool:
        return example_key(example) in self.index

    def rows(self, example: Example) -> Tensor:
        """The (n, H) hidden states of one example's response rows.

        Raises:
            CacheMismatch: the cache was made from other text.
        """
        try:
            shard, start, length = self.index[example_key(example)]
        except KeyError:
            raise CacheMismatch(
                f"the teacher cache {self.folder} was made from other text: example {example.number} is not in it. "
                "Make it again for this data, or choose another folder."
            ) from None
        if shard not in self._open:
            self._open[shard] = safe_open(str(shard), framework="pt").__enter__().get_slice("hidden")
        return self._open[shard][start : start + length]

    def check(self, examples: Iterable[Example]) -> None:
        """Refuse at once, not in the middle of a run, where any of the examples is not held."""
        for example in examples:
            if example.response_ids and example_key(example) not in self.index:
                self.rows(example)


@torch.no_grad()
def fill_cache(
    folder: str | os.PathLike[str],
    teacher: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    teacher_sha256: str,
    *,
    dtype: str = "float16",
    batch_size: int = 8,
    on_progress: Callable[[int, int], None] | None = None,
) -> TeacherCache:
    """Put the given examples into a cache: one pass of the teacher's trunk over those that are not there yet.

    Args:
        folder: the cache, new or to be continued.
        teacher: a causal language model in evaluation mode.
        examples: with responses.
        teacher_sha256: of the teacher's weights.
        dtype: "float16" or "bfloat16".
        on_progress: called with (examples held, examples asked for).
    Returns:
        The cache, opened.
    Raises:
        CacheMismatch: the folder holds the cache of another teacher or tokenizer.
        OSError: it cannot be written.
    """
    checksum = tokenizer_sha256(tokenizer)
    keys = [example_key(example) for example in examples]
    with CacheWriter(folder, teacher_sha256, checksum, dtype) as writer:
        todo = {
            key: example
            for key, example in zip(keys, examples, strict=True)
            if key not in writer.held and example.response_ids
        }
        waiting = sorted(todo.items(), key=lambda item: -len(item[1].prompt_ids) - len(item[1].response_ids))
        for start in range(0, len(waiting), batch_size):
            batch = waiting[start : start + batch_size]
            for (key, _), hidden in zip(batch, teacher_rows(teacher, [example for _, example in batch]), strict=True):
                writer.add(key, hidden)
            if on_progress is not None:
                on_progress(len(keys) - len(waiting) + start + len(batch), len(keys))
    return TeacherCache(folder, teacher_sha256, checksum)


@torch.no_grad()
def teacher_rows(teacher: Any, examples: Sequence[Example]) -> list[Tensor]:
    """The teacher's last hidden states of each example's response rows: one (n, H) an example."""
    rows = [
        {
            "input_ids": example.prompt_ids + example.response_ids,
            "n_prompt": len(example.prompt_ids),
            "trained": example.trained,
            "number": 0,
        }
        for example in examples
    ]
    batch = collate(rows, pad_id=0)
    picked = positions_before(response_rows(batch["labels"]))  # (B, T)
    hidden = hidden_rows(teacher, batch["input_ids"], picked, batch["attention_mask"])  # (N, H)
    return list(hidden.split(picked.sum(-1).tolist()))
