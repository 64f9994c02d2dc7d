"""The teacher's K likeliest tokens of each response row, in one file: training then needs no teacher at all.

``python -m speckd teach`` makes it. It is a safetensors file, memory-mapped when it is read, with a checksum over all
that it holds. A row costs K token ids (two bytes each where the vocabulary has at most 65,536 tokens, else four), K
half-precision log-probabilities and the exact mass of all other tokens: 260 bytes at K = 64 for a small vocabulary.
Ranks are kept by the order, not by the rounded numbers, so the gate decides as it would with the teacher at hand.

A file is made part by part, each whole or absent, in a folder beside it; an interrupted making goes on.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from speckd.data import Example
from speckd.heads import Head
from speckd.top_tokens import TopTokens
from speckd.training.teacher_cache import example_key, teacher_rows

FORMAT = "speckd.teacher_file"
VERSION = "1"
PART_ROWS = 8192  # response rows a part: what an interruption loses at most
DEFAULT_KEPT = 64
LOGITS = 12 * 2**20  # logits that a teacher at hand computes at a time
_DTYPES = {"U8": np.uint8, "U16": np.uint16, "I32": np.int32, "I64": np.int64, "F16": np.float16, "F32": np.float32}
_COLUMNS = ("ids", "logprobs", "rest")


class TeacherFileError(ValueError):
    """A teacher's file is damaged, or belongs to another tokenizer, temperature or text. The message says which."""


class Source(Protocol):
    """Whatever gives a teacher's likeliest tokens: a model here, a server, a file."""

    n_kept: int
    temperature: float
    teacher_id: str
    teacher_sha256: str
    vocabulary_size: int

    def top_tokens(self, examples: Sequence[Example]) -> list[TopTokens]:
        """The rows of each example's response that are trained, one TopTokens an example."""


def _key(example: Example) -> bytes:
    return bytes.fromhex(example_key(example))


# --- writing ------------------------------------------------------------------------------------------------------


def write_teacher_file(
    path: str | os.PathLike[str],
    source: Source,
    examples: Sequence[Example],
    tokenizer_sha256: str,
    *,
    batch_size: int = 8,
    on_progress: Callable[[int, int], None] | None = None,
) -> "TeacherFile":
    """Ask a teacher about every example and keep the answers in one file.

    Args:
        path: the file, new. Parts of an interrupted making, in the folder PATH.parts, are gone on with.
        source: the teacher.
        examples: with responses; those without are left out, equal ones are kept once.
        tokenizer_sha256: of the tokenizer that made their ids.
        on_progress: called with (examples done, examples in all).
    Returns:
        The file, opened.
    Raises:
        TeacherFileError: the parts are another teacher's.
        OSError: it cannot be written.
    """
    target = Path(path)
    if target.exists():
        raise ValueError(f"{target} exists: choose another name, or remove it first.")
    head = {
        "format": FORMAT,
        "version": VERSION,
        "k": str(source.n_kept),
        "temperature": repr(float(source.temperature)),
        "vocabulary_size": str(source.vocabulary_size),
        "teacher": source.teacher_id,
        "teacher_sha256": source.teacher_sha256,
        "tokenizer_sha256": tokenizer_sha256,
    }
    parts = _Parts(target.with_name(target.name + ".parts"), head, source.vocabulary_size)
    wanted = {_key(example): example for example in examples if example.response_ids}
    todo = sorted(
        (item for item in wanted.items() if item[0] not in parts.keys),
        key=lambda item: -len(item[1].prompt_ids) - len(item[1].response_ids),
    )
    for start in range(0, len(todo), batch_size):
        batch = todo[start : start + batch_size]
        answers = source.top_tokens([example for _, example in batch])
        for (key, example), rows in zip(batch, answers, strict=True):
            assert len(rows) == example.n_trained and rows.n_kept == source.n_kept
            parts.add(key, rows)
        if on_progress is not None:
            on_progress(len(wanted) - len(todo) + start + len(batch), len(wanted))
    parts.flush()
    parts.join(target)
    return TeacherFile(target)


class _Parts:
    """The parts of a file that is being made."""

    def __init__(self, folder: Path, head: dict[str, str], vocabulary_size: int) -> None:
        self.folder, self.head = folder, head
        self.id_type = np.uint16 if vocabulary_size <= 2**16 else np.int32
        self.waiting: list[tuple[bytes, TopTokens]] = []
        self.keys: set[bytes] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            listing = folder / "head.json"
            if listing.exists() and json.loads(listing.read_text(encoding="utf-8")) != head:
                raise TeacherFileError(
                    f"{folder} holds parts of another teacher, temperature, tokenizer or K: remove it, or choose "
                    "another name."
                )
            listing.write_text(json.dumps(head), encoding="utf-8")
        except OSError as error:
            raise _cannot_write(folder, error) from error
        for path in folder.glob("*.tmp"):
            path.unlink()
        for path in self.files():
            with np.load(path) as part:
                self.keys |= {bytes(key) for key in part["keys"]}

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.npz"))

    def add(self, key: bytes, rows: TopTokens) -> None:
        self.waiting.append((key, rows))
        self.keys.add(key)
        if sum(len(waiting) for _, waiting in self.waiting) >= PART_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting as one part."""
        if not self.waiting:
            return
        rows = TopTokens.join([rows for _, rows in self.waiting])
        keys = np.frombuffer(b"".join(key for key, _ in self.waiting), dtype=np.uint8).reshape(-1, 32)
        target = self.folder / f"part-{keys[0].tobytes().hex()[:16]}.npz"
        partial = target.with_suffix(".tmp")
        try:
            with partial.open("wb") as file:
                np.savez(
                    file,
                    keys=keys,
                    lengths=np.array([len(rows) for _, rows in self.waiting], dtype=np.int64),
                    ids=rows.ids.cpu().numpy().astype(self.id_type),
                    logprobs=rows.logprobs.cpu().numpy().astype(np.float16),
                    rest=rows.rest.cpu().numpy().astype(np.float32),
                )
            os.replace(partial, target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise _cannot_write(self.folder, error) from error
        self.waiting = []

    def join(self, target: Path) -> None:
        """All parts as one file, whole or absent; then they go."""
        files = self.files()
        keys, lengths = [], []
        mass, least = 0.0, 1.0
        for path in files:
            with np.load(path) as part:
                keys.append(part["keys"])
                lengths.append(part["lengths"])
                kept = -np.expm1(part["rest"].astype(np.float64))
                mass, least = mass + float(kept.sum()), min(least, float(kept.min(initial=1.0)))
        if not files:
            raise ValueError("no example has a response: there is nothing to ask the teacher about.")
        all_lengths = np.concatenate(lengths)
        n_rows, n_kept = int(all_lengths.sum()), int(self.head["k"])
        whole = {"keys": np.concatenate(keys), "starts": np.concatenate([[0], all_lengths.cumsum()]).astype(np.int64)}
        shapes = {"ids": [n_rows, n_kept], "logprobs": [n_rows, n_kept], "rest": [n_rows]}
        types = {"ids": self.id_type, "logprobs": np.float16, "rest": np.float32}
        digest = hashlib.sha256()
        for piece in self._pieces(files, whole):
            digest.update(piece)
        facts = {
            "sha256": digest.hexdigest(),
            "mean_mass": f"{mass / n_rows:.6f}",
            "least_mass": f"{least:.6f}",
            "rows": str(n_rows),
            "examples": str(len(all_lengths)),
        }
        header: dict[str, Any] = {"__metadata__": self.head | facts}
        at = 0
        names = {np.dtype(kind): name for name, kind in _DTYPES.items()}
        layout = {name: (list(array.shape), array.dtype) for name, array in whole.items()}
        layout |= {name: (shapes[name], np.dtype(types[name])) for name in _COLUMNS}
        for name in ("starts", *_COLUMNS, "keys"):  # the widest numbers first, so that all are aligned
            shape, kind = layout[name]
            size = int(np.prod(shape)) * kind.itemsize
            header[name] = {"dtype": names[kind], "shape": shape, "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        partial = target.with_name(f".{target.name}.tmp")
        try:
            with partial.open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                for piece in self._pieces(files, whole):
                    file.write(piece)
            os.replace(partial, target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise _cannot_write(target, error) from error
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _pieces(files: Sequence[Path], whole: dict[str, np.ndarray]) -> Iterable[bytes]:
        """The file's data in its order, one column of one part at a time."""
        yield whole["starts"].tobytes()
        for name in _COLUMNS:
            for path in files:
                with np.load(path) as part:
                    yield part[name].tobytes()
        yield whole["keys"].tobytes()


def _cannot_write(path: Path, error: OSError) -> OSError:
    return OSError(
        f"{path} cannot be written ({error.strerror or error}): free some space, or choose another place. "
        "What is whole stays, and the same command goes on."
    )


# --- reading ------------------------------------------------------------------------------------------------------


class TeacherFile:
    """A teacher known by the K likeliest tokens of given texts. Memory-mapped: a batch touches only its own rows.

    Args:
        path: from ``python -m speckd teach``.
        verify: read it once and compare its checksum (a second or two for a gigabyte).
    Attributes:
        n_kept, temperature, vocabulary_size, teacher_id, teacher_sha256, tokenizer_sha256: what it was made from.
        mean_mass, least_mass: the probability that the K tokens have together, over all rows.
        n_examples, n_rows: how much text it covers.
    Raises:
        TeacherFileError: it is no such file, or damaged.
    """

    def __init__(self, path: str | os.PathLike[str], verify: bool = True) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size)) if size < 100_000_000 else {}
                start = 8 + size
                facts = header.pop("__metadata__", {})
                if facts.get("format") != FORMAT or facts.get("version") != VERSION:
                    raise TeacherFileError(
                        f"{self.path} is no teacher's file of this version: make one with python -m speckd teach."
                    )
                whole = start + max(entry["data_offsets"][1] for entry in header.values())
                if self.path.stat().st_size != whole:
                    raise TeacherFileError(f"{self.path} is cut off or damaged: its length differs. Fetch it again.")
                if verify and hashlib.file_digest(_After(file), "sha256").hexdigest() != facts["sha256"]:
                    raise TeacherFileError(f"{self.path} is damaged: its checksum differs. Fetch or make it again.")
        except IsADirectoryError:
            raise TeacherFileError(f"{self.path} is a folder: name the file in it.") from None
        except FileNotFoundError:
            raise TeacherFileError(
                f"There is no file {str(self.path)!r}: make it with python -m speckd teach."
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise TeacherFileError(
                f"{self.path} is no teacher's file of this version: make one with python -m speckd teach."
            ) from None
        self.n_kept, self.temperature = int(facts["k"]), float(facts["temperature"])
        self.vocabulary_size = int(facts["vocabulary_size"])
        self.teacher_id, self.teacher_sha256 = facts["teacher"], facts["teacher_sha256"]
        self.tokenizer_sha256 = facts["tokenizer_sha256"]
        self.mean_mass, self.least_mass = float(facts["mean_mass"]), float(facts["least_mass"])
        self.n_examples, self.n_rows = int(facts["examples"]), int(facts["rows"])
        self._layout = {
            name: (_DTYPES[entry["dtype"]], start + entry["data_offsets"][0], tuple(entry["shape"]))
            for name, entry in header.items()
        }
        self._arrays: dict[str, np.ndarray] = {}
        starts, keys = self._array("starts"), self._array("keys")
        self._index = {
            bytes(key): (int(first), int(last)) for key, first, last in zip(keys, starts[:-1], starts[1:], strict=True)
        }

    def __getstate__(self) -> dict[str, Any]:  # for data loaders' worker processes: each maps the file itself
        return {**self.__dict__, "_arrays": {}}

    def _array(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            kind, offset, shape = self._layout[name]
            self._arrays[name] = np.memmap(self.path, dtype=kind, mode="r", offset=offset, shape=shape)
        return self._arrays[name]

    def __contains__(self, example: Example) -> bool:
        return _key(example) in self._index

    def rows(self, example: Example) -> TopTokens:
        """The n rows of one example's response.

        Raises:
            TeacherFileError: the file was made from other text.
        """
        try:
            first, last = self._index[_key(example)]
        except KeyError:
            raise TeacherFileError(
                f"{self.path} was made from other text: example {example.number} is not in it. Make it again for this "
                "data, with the same max_length."
            ) from None
        return TopTokens(
            torch.from_numpy(self._array("ids")[first:last].astype(np.int64)),
            torch.from_numpy(self._array("logprobs")[first:last].astype(np.float32)),
            torch.from_numpy(self._array("rest")[first:last].astype(np.float32)),
        )

    def top_tokens(self, examples: Sequence[Example]) -> list[TopTokens]:
        """The rows of each example's response."""
        return [self.rows(example) for example in examples]

    def check(self, examples: Iterable[Example], tokenizer_sha256: str, temperature: float) -> None:
        """Refuse at once, not in the middle of a run, what this file does not fit.

        Raises:
            TeacherFileError: another tokenizer, another temperature, or a text that it does not hold.
        """
        if tokenizer_sha256 != self.tokenizer_sha256:
            raise TeacherFileError(
                f"{self.path} was made with another tokenizer: choose a student of the same family, or make it again."
            )
        check_temperature(self, temperature)
        for example in examples:
            if example.response_ids and example not in self:
                self.rows(example)


def check_temperature(source: Any, temperature: float) -> None:
    """Refuse a temperature that a teacher's K tokens were not taken at: the other tokens would be needed to change it.

    Raises:
        TeacherFileError: the two differ.
    """
    if temperature != source.temperature:
        raise TeacherFileError(
            f"{source.teacher_id}: its likeliest tokens were taken at temperature {source.temperature:g}, and "
            f"{temperature:g} is asked for. Ask for {source.temperature:g}, or make a file at {temperature:g}."
        )


class _After:
    """The rest of an open file, for hashlib.file_digest, which begins where it stands."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def readinto(self, buffer: Any) -> int:
        return self.file.readinto(buffer)

    def readable(self) -> bool:
        return True


# --- a teacher at hand --------------------------------------------------------------------------------------------


class LocalTeacher:
    """A model on this machine as a source of likeliest tokens.

    Args:
        model: a causal language model in evaluation mode.
        teacher_id, teacher_sha256: what to call it, and the checksum of its weights.
        n_kept: K, tokens a row. temperature: tau > 0 that divides its logits.
    Raises:
        ValueError: K is not below its vocabulary, or the temperature not above 0.
    """

    def __init__(
        self,
        model: Any,
        teacher_id: str = "",
        teacher_sha256: str = "",
        *,
        n_kept: int = DEFAULT_KEPT,
        temperature: float = 1.0,
    ) -> None:
        self.model, self.head = model, Head.of(model)
        self.vocabulary_size = len(self.head.weight)
        self.teacher_id, self.teacher_sha256 = teacher_id, teacher_sha256
        self.n_kept, self.temperature = n_kept, float(temperature)
        if not 1 <= n_kept < self.vocabulary_size:
            raise ValueError(f"K is {n_kept}: choose a whole number from 1 to {self.vocabulary_size - 1}.")
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}: choose a number above 0.")

    @torch.no_grad()
    def top_tokens(self, examples: Sequence[Example]) -> list[TopTokens]:
        """One pass of the model; its logits a few rows at a time."""
        size = max(1, LOGITS // self.vocabulary_size)
        answers = []
        for hidden in teacher_rows(self.model, examples):
            hidden = hidden.to(self.head.weight)
            parts = [TopTokens.of(self.head.logits(part), self.n_kept, self.temperature) for part in hidden.split(size)]
            answers.append(TopTokens.join(parts).to(torch.device("cpu")))
        return answers
