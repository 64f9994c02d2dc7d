"""Where rows come from: files of many kinds, packed or not, folders of them, tables, data sets, and the Hub.

Each source gives (number, row) pairs, counted from 1; what a row may hold stands in ``forms.py``. A row that cannot be
read comes as a BadLine in its place, so that whoever reads can skip it; a file that cannot be read at all is a
ValueError.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from speckd.forms import FORMS, OWN_NAMES, BadLine

SOURCES = "a JSONL, JSON, CSV or Parquet file, rows, a data set of the datasets library, or a Hub id 'owner/name'"
_PACKED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_PACK_ERRORS = (EOFError, OSError, zlib.error, lzma.LZMAError)  # cut off, or not packed at all
_FOREIGN = (".zst", ".zip", ".tar", ".tgz", ".7z", ".xlsx", ".xls", ".arrow", ".feather", ".yaml", ".yml", ".xml")
_SPLITS = {"valid": "validation", "val": "validation", "dev": "validation", "eval": "validation"}
_SPLIT_NAME = re.compile(r"(train|validation|valid|val|dev|eval|test)(?![a-z])")


def rows_of(source: str | os.PathLike[str] | Iterable[Any], split: str | None = None) -> Iterator[tuple[int, Any]]:
    """(number, row) of each row of a source, counted from 1; a line that cannot be read comes as a BadLine.

    The files of a folder are read by their names' order and counted through, those alone whose names tell the split
    where names tell it ("train-00000-of-00002.parquet").

    Raises:
        ValueError: there is no such source, or several splits and none is named.
    """
    if isinstance(source, str | os.PathLike):
        check_source(str(source))
        path = Path(source).expanduser()
        if path.is_file():
            yield from _rows_of_file(path, split)
        elif path.is_dir():
            yield from rows_of(_saved_data(path), split) if _is_saved_data(path) else _rows_of_files(path, split)
        else:
            found = _hub_data(str(source), split)
            yield from rows_of(found, split if isinstance(found, Mapping) else None)
        return
    if isinstance(source, Mapping):
        if any(name in source for name in OWN_NAMES):
            source = columns_of(source)
        else:
            source, split = _chosen(source, split), None
    for method, given in (("to_pylist", ()), ("to_dicts", ()), ("to_dict", ("records",))):  # pyarrow, polars, pandas
        if hasattr(source, "columns") and hasattr(source, method) and not hasattr(source, "features"):
            source = getattr(source, method)(*given)
    if not isinstance(source, Iterable) or isinstance(source, bytes):
        raise ValueError(f"The data is of the type {type(source).__name__}. Give {SOURCES}.")
    _check_no_split(split, "The data")
    yield from enumerate(source, start=1)


def check_source(source: str) -> None:
    """Refuse the name of data that is neither here nor spelt as the Hub spells its data sets.

    Raises:
        ValueError: with what may be given.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not _is_saved_data(path) and not _files_in(path):
            raise ValueError(f"The folder {source!r} holds no file of data. Give {SOURCES}.")
    elif not path.is_file() and not _is_hub_id(source):
        raise ValueError(f"There is no file {source!r}. Give {SOURCES}.")


def _check_no_split(split: str | None, what: str) -> None:
    if split not in (None, "train"):
        raise ValueError(f"{what} has no splits, and {split!r} is asked for: leave the split out.")


def columns_of(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table that is given as a dict of columns."""
    columns = {name: list(values) for name, values in table.items() if isinstance(values, list | tuple)}
    if len({len(values) for values in columns.values()}) != 1:
        raise ValueError(f"The data is a dict whose columns ({', '.join(table)}) differ in length. Give {SOURCES}.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


# --- folders, splits, the Hub -----------------------------------------------------------------------------------------


def _files_in(folder: Path) -> list[Path]:
    """The files of data in a folder and in its folders, in their names' order, hidden ones left out."""
    paths = sorted([*folder.glob("[!._]*"), *folder.glob("[!._]*/[!._]*")])
    return [path for path in paths if path.is_file() and _inner(path).suffix.lower() in _READERS]


def _rows_of_files(folder: Path, split: str | None) -> Iterator[tuple[int, Any]]:
    files = _files_in(folder)
    told = {path: match[1] for path in files if (match := _SPLIT_NAME.match(_inner(path).stem.lower()))}
    if split is not None or told:
        splits: dict[str, list[Path]] = {}
        for path in files:
            name = told.get(path, "train")
            splits.setdefault(_SPLITS.get(name, name), []).append(path)
        files = _chosen(splits, split)
    done = 0
    for path in files:
        number = 0
        for number, row in _rows_of_file(path, None):
            yield done + number, BadLine(f"{path.name}, {row}") if isinstance(row, BadLine) else row
        done += number


def _is_saved_data(path: Path) -> bool:
    return any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def _saved_data(path: Path) -> Any:
    """A folder that ``save_to_disk`` of the datasets library wrote."""
    try:
        from datasets import load_from_disk
    except ImportError:
        raise ValueError(f"{path} is a data set of the datasets library: pip install datasets.") from None
    return load_from_disk(str(path))


def _chosen(splits: Mapping[str, Any], split: str | None) -> Any:
    names = ", ".join(map(str, splits))
    if split is not None and split not in splits:
        raise ValueError(f"The data has no split {split!r}: it has {names}.")
    if split is None and len(splits) > 1 and "train" not in splits:
        raise ValueError(f"The data has several splits ({names}): name one of them.")
    if not splits:
        raise ValueError(f"The data is an empty dict. Give {SOURCES}.")
    return splits[split or ("train" if "train" in splits else next(iter(splits)))]


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not name.startswith(".") and Path(name).suffix.lower() not in _READERS


def _hub_data(name: str, split: str | None) -> Any:
    """A data set of the Hub, as a stream: what is not asked for is not fetched."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError(f"{name!r} is no file here. To read it from the Hub: pip install datasets.") from None
    try:
        return load_dataset(name, split=split, streaming=True)
    except Exception as error:  # the datasets library's own kinds are many
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"The data set {name!r} cannot be read from the Hub ({reason}). Give {SOURCES}.") from error


# --- files ------------------------------------------------------------------------------------------------------------


def _rows_of_file(path: Path, split: str | None) -> Iterator[tuple[int, Any]]:
    if path.suffix.lower() in _FOREIGN:
        raise ValueError(f"{path} is of a kind that is not read here ({path.suffix}). Give {SOURCES}.")
    reader = _READERS.get(_inner(path).suffix.lower(), _json_lines)
    try:
        yield from reader(path, split)
    except _PACK_ERRORS as error:
        if path.suffix.lower() not in _PACKED:
            raise
        raise ValueError(f"{path} cannot be unpacked ({error}): it is cut off, or not packed so.") from None


def _inner(path: Path) -> Path:
    """A file's name without the ending of what it is packed by."""
    return path.with_suffix("") if path.suffix.lower() in _PACKED else path


def _opened(path: Path) -> Any:
    """A file as bytes, unpacked where it is packed."""
    return _PACKED.get(path.suffix.lower(), open)(path, "rb")


def _json_lines(path: Path, split: str | None) -> Iterator[tuple[int, Any]]:
    """A JSONL file, or one JSON document. A rollout file's head and end are no rows."""
    is_first = True
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            begins = line.decode("utf-8-sig", errors="replace").strip() if is_first else ""
            if begins.startswith("[") or (begins.startswith("{") and _is_one_document(begins, path)):
                yield from _json_document(path, split)
                return
            if is_first:
                _check_no_split(split, str(path))
            try:
                row = json.loads(line.decode("utf-8-sig" if is_first else "utf-8"))
            except UnicodeDecodeError:
                yield number, BadLine(f"line {number}: it is not UTF-8.")
            except (json.JSONDecodeError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
                yield number, BadLine(f"line {number}: it is not JSON ({reason}); {FORMS}.")
            else:
                if isinstance(row, dict) and (row.get("format") == "speckd.rollouts" or set(row) == {"complete"}):
                    continue
                yield number, row
            finally:
                is_first = False


def _is_one_document(first_line: str, path: Path) -> bool:
    """Whether a file that begins with an object is one JSON document over several lines, or rows within an object."""
    try:
        row = json.loads(first_line)
    except ValueError:
        return _inner(path).suffix.lower() == ".json"
    if not row or set(row) & set(OWN_NAMES):
        return _is_table(row) and _inner(path).suffix.lower() == ".json"
    return all(isinstance(rows, list) for rows in row.values()) and (len(row) == 1 or _are_splits(row))


def _are_splits(row: Mapping[str, Any]) -> bool:
    return all(_SPLIT_NAME.match(name.lower()) for name in row)


def _is_table(row: Any) -> bool:
    """Whether an object is a dict of columns, as tables are written: one whose column of a form's name holds texts."""
    named = [row[name] for name in OWN_NAMES if isinstance(row.get(name), list)] if isinstance(row, dict) else []
    return any(cell is None or isinstance(cell, str | list) for column in named for cell in column[:1])


def _json_document(path: Path, split: str | None) -> Iterator[tuple[int, Any]]:
    """One JSON array, an object that holds one ({"data": [...]}) or one a split, a dict of columns, or one row."""
    try:
        with _opened(path) as file:
            rows = json.loads(file.read().decode("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = getattr(error, "msg", None) or "not UTF-8, or nested too deep"
        raise ValueError(f"{path} begins like a JSON array or object, but is not one ({reason}).") from None
    if _is_table(rows):
        rows = columns_of(rows)
    elif isinstance(rows, dict):
        lists = {name: value for name, value in rows.items() if isinstance(value, list)}
        if not set(rows) & set(OWN_NAMES) and lists and _are_splits(lists):
            rows, split = _chosen(lists, split), None
        else:
            rows = next(iter(lists.values())) if len(lists) == 1 and not set(rows) & set(OWN_NAMES) else [rows]
    _check_no_split(split, str(path))
    yield from enumerate(rows, start=1)


def _csv(path: Path, split: str | None) -> Iterator[tuple[int, Any]]:
    """Each row as an object; one with more cells than the head has names is a bad line: its text would be cut."""
    _check_no_split(split, str(path))
    csv.field_size_limit(2**27)
    try:
        with _opened(path) as packed, io.TextIOWrapper(packed, encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(",;\t|", key=head.count)  # a comma where there is but one column
            reader = csv.DictReader(file, delimiter=delimiter)
            for row in reader:
                number = reader.line_num
                if None in row:
                    n_cells, n_names = len(row) - 1 + len(row[None]), len(reader.fieldnames or ())
                    yield (
                        number,
                        BadLine(
                            f"line {number}: it has {n_cells} cells, and the head names {n_names}: put a text that "
                            f"holds {delimiter!r} into quotes."
                        ),
                    )
                else:
                    yield number, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as CSV in UTF-8 ({error}).") from None


def _parquet(path: Path, split: str | None) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError(f"{path} is a Parquet file. To read it: pip install pyarrow.") from None
    _check_no_split(split, str(path))
    try:
        source = io.BytesIO(_opened(path).read()) if path.suffix.lower() in _PACKED else path
        batches = parquet.ParquetFile(source).iter_batches(batch_size=1024)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}).") from None


_READERS: dict[str, Callable[[Path, str | None], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_lines,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
