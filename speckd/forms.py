"""Data as people have it: files and data sets into rows, and rows into conversations.

A row is an object in one of these forms:

    {"prompt": "Why is the sky blue?", "response": "Because ..."}            also "completion" for "response"
    {"prompt": [messages], "completion": [messages]}                         conversational prompt and completion
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}
    {"messages": [... up to a user's turn], "response": "..."}
    {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}     ShareGPT
    {"instruction": "...", "input": "...", "output": "..."}                                     Alpaca

Any of them may have a "system" text, and Alpaca's and prompt rows a "history" of [question, answer] pairs. A message's
content is text, or a list of parts that are all text. Reasoning, tool calls and results stay in it, and "tools" beside
the messages goes to the template; a message of "weight" 0 (or "train": false) is read and not trained. A source is a
file (JSONL, JSON, CSV, Parquet, also as .gz), rows, a table, a data set of the datasets library (streaming ones are
read row by row) or a folder that it saved, or a data set's id on the Hub.
"""

import csv
import gzip
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speckd.conversations import Messages

FORMS = (
    'give "prompt" with "response" or "completion", "messages", "conversations" (from, value), or "instruction" with '
    '"output"'
)
SOURCES = "a JSONL, JSON, CSV or Parquet file, rows, a data set of the datasets library, or a Hub id 'owner/name'"
_OWN_NAMES = ("prompt", "messages", "conversations", "conversation", "instruction")  # that tell a row's form
_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}


class BadLine(ValueError):
    """A line of data that cannot be read. The message names the line and what to do."""


@dataclass(frozen=True)
class Row:
    """One row, whatever form it had.

    Attributes:
        prompt: messages, the last one not the assistant's.
        response: the assistant's last turn, or None where a model is to write it.
        finished: whether it reached its end.
        response_ids: the response's own token ids, where the row keeps them.
        extras: what the row gives to the chat template: "tools", "chat_template_kwargs".
    """

    prompt: Messages
    response: dict[str, Any] | None
    finished: bool = True
    response_ids: list[int] | None = None
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def tools(self) -> list[Any] | None:
        return self.extras.get("tools")

    @property
    def chat_template_kwargs(self) -> dict[str, Any]:
        return self.extras.get("chat_template_kwargs", {})


# --- one row --------------------------------------------------------------------------------------------------------


def read_row(row: Any, needs_response: bool = True) -> Row:
    """The conversation that a row holds.

    Raises:
        ValueError: it has none of the forms, no text, or no response where one is needed; the forms are named.
    """
    try:
        read = _read_row(row, needs_response)
    except ValueError as error:
        raise ValueError(str(error) if FORMS in str(error) else f"{error}; {FORMS}") from None
    for message in [*read.prompt, read.response or {}]:
        try:
            (message.get("content") or "").encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("its text holds half a character (a lone surrogate)") from None
    return read


def _read_row(row: Any, needs_response: bool) -> Row:
    if not isinstance(row, Mapping):
        raise ValueError(f"it is not a JSON object; {FORMS}")
    messages = _before(row, _conversation(row))
    if needs_response:  # a question at the end that nobody answered
        last = max((place for place, one in enumerate(messages) if one["role"] == "assistant"), default=-1)
        messages = messages[: last + 1] if last > 0 else messages
    if messages[-1]["role"] == "assistant":
        prompt, response = messages[:-1], messages[-1]
    else:
        prompt, response = messages, None
    if not prompt:
        raise ValueError("there is no prompt before the response")
    ids = row.get("response_ids")
    kept = list(ids) if isinstance(ids, list) and ids and all(isinstance(token, int) for token in ids) else None
    text = (response or {}).get("content") or ""
    says = bool(text.strip()) or bool((response or {}).get("tool_calls"))
    if needs_response and not says and (response is None or kept is None):
        raise ValueError("it has no response with text")  # a model's own answer may be its stop token alone
    extras = {name: value for name in ("tools", "chat_template_kwargs") if (value := _decoded(row.get(name)))}
    return Row(prompt, response, bool(row.get("finished", True)), kept, extras)


def _decoded(value: Any) -> Any:
    """Tables keep lists and objects as JSON text."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return None
    return value


def _conversation(row: Mapping[str, Any]) -> Messages:
    """The messages of a row, the response among them where there is one."""
    for name in ("messages", "conversations", "conversation"):
        turns = _decoded(row.get(name)) if row.get(name) is not None else None
        if turns is not None or isinstance(row.get(name), str):
            return _with_response(_messages(turns, name), row)
    if row.get("instruction") is not None and (row.get("output") is not None or row.get("prompt") is None):
        text = _text(row["instruction"], "instruction")
        if more := row.get("input"):
            text = f"{text}\n\n{_text(more, 'input')}"
        return _with_response([{"role": "user", "content": text}], {"response": row.get("output")})
    prompt = row.get("prompt")
    if isinstance(prompt, list | tuple):
        return _with_response(_messages(prompt, "prompt"), row)
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f'it has neither a "prompt" with text nor "messages"; {FORMS}')
    return _with_response([{"role": "user", "content": prompt}], row)


def _before(row: Mapping[str, Any], messages: Messages) -> Messages:
    """The messages with what a row keeps beside them: a system text, and the questions and answers before."""
    earlier: Messages = []
    history = _decoded(row.get("history"))
    if isinstance(history, list | tuple) and history:
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
            raise ValueError('"history" is not a list of [question, answer] pairs')
        roles = ("user", "assistant")
        earlier = [
            {"role": role, "content": _text(text, "history")}
            for pair in history
            for role, text in zip(roles, pair, strict=True)
        ]
    system = row.get("system")
    if system and messages[0]["role"] not in ("system", "developer"):
        earlier.insert(0, {"role": "system", "content": _text(system, "system")})
    elif earlier and messages[0]["role"] in ("system", "developer"):
        return [messages[0], *earlier, *messages[1:]]
    return [*earlier, *messages]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f'"{name}" is not text; {FORMS}')
    return value


def _with_response(messages: Messages, row: Mapping[str, Any]) -> Messages:
    response = row.get("response") if row.get("response") is not None else row.get("completion")
    if response is None or response != response:  # NaN is how tables write that there is none
        return messages
    if isinstance(response, list | tuple):
        return [*messages, *_messages(response, "completion")]
    if isinstance(response, Mapping):
        return [*messages, *_messages([response], "response")]
    if not isinstance(response, str):
        raise ValueError('"response" is not text')
    return [*messages, {"role": "assistant", "content": response}]


def _messages(turns: Any, name: str) -> Messages:
    if not isinstance(turns, list | tuple) or not turns:
        raise ValueError(f'"{name}" is not a list of messages; {FORMS}')
    return [_message(turn) for turn in turns]


def _message(turn: Any) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise ValueError('a message has no "role"')
    if "from" in turn and "role" not in turn:  # ShareGPT
        role = _ROLES.get(str(turn["from"]).lower())
        if role is None:
            raise ValueError(f"a turn is from {turn['from']!r}: human, gpt, system and tool are known")
        rest = {name: value for name, value in turn.items() if name not in ("from", "value")}
        turn = {"role": role, "content": turn.get("value"), **rest}
    if not isinstance(turn.get("role"), str):
        raise ValueError('a message has no "role"')
    role = _ROLES.get(turn["role"].lower(), turn["role"])  # "Assistant", or ShareGPT's names in a "role"
    message = {name: value for name, value in turn.items() if value is not None} | {"role": role}
    if "content" not in message and message.get("tool_calls"):
        message["content"] = ""
    message["content"] = _content(message.get("content"))
    return message


def _content(content: Any) -> str:
    """A message's text; of a list of parts, theirs one after another."""
    if isinstance(content, list | tuple):
        kinds = {part.get("type", "text") if isinstance(part, Mapping) else "text" for part in content}
        if kinds - {"text"}:
            raise ValueError(f"a message holds {', '.join(sorted(map(str, kinds - {'text'})))}: only text is read")
        content = "".join(str(part.get("text") or "") if isinstance(part, Mapping) else str(part) for part in content)
    if not isinstance(content, str):
        raise ValueError('a message has no "content" with text')
    return content


# --- many -----------------------------------------------------------------------------------------------------------


def rows_of(source: str | os.PathLike[str] | Iterable[Any], split: str | None = None) -> Iterator[tuple[int, Any]]:
    """(number, row) of each row of a source, counted from 1; a line that cannot be read comes as a BadLine.

    Raises:
        ValueError: there is no such source, or several splits and none is named.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        inner = path.with_suffix("") if path.suffix.lower() == ".gz" else path
        reader = _READERS.get(inner.suffix.lower(), _json_lines)
        check_source(str(source))
        if path.is_file():
            yield from reader(path)
        elif path.is_dir():
            yield from rows_of(_saved_data(path), split)
        else:
            yield from rows_of(_hub_data(str(source), split), split)
        return
    if isinstance(source, Mapping):
        source = _columns(source) if any(name in source for name in _OWN_NAMES) else _chosen(source, split)
    for method, given in (("to_pylist", ()), ("to_dicts", ()), ("to_dict", ("records",))):  # pyarrow, polars, pandas
        if hasattr(source, "columns") and hasattr(source, method) and not hasattr(source, "features"):
            source = getattr(source, method)(*given)
    if not isinstance(source, Iterable):
        raise ValueError(f"The data is of the type {type(source).__name__}. Give {SOURCES}.")
    yield from enumerate(source, start=1)


def check_source(source: str) -> None:
    """Refuse the name of data that is neither a file nor spelt as the Hub spells its data sets.

    Raises:
        ValueError: with what may be given.
    """
    path = Path(source).expanduser()
    if not path.is_file() and not _is_saved_data(path) and (path.is_dir() or not _is_hub_id(source)):
        raise ValueError(f"There is no file {source!r}. Give {SOURCES}.")


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not name.startswith(".") and Path(name).suffix.lower() not in _READERS


def _columns(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table that is given as a dict of columns."""
    columns = {name: list(values) for name, values in table.items() if isinstance(values, list | tuple)}
    if len({len(values) for values in columns.values()}) != 1:
        raise ValueError(f"The data is a dict whose columns ({', '.join(table)}) differ in length. Give {SOURCES}.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


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
    names = ", ".join(splits)
    if split is not None and split not in splits:
        raise ValueError(f"The data has no split {split!r}: it has {names}.")
    if split is None and len(splits) > 1 and "train" not in splits:
        raise ValueError(f"The data has several splits ({names}): name one of them.")
    return splits[split or ("train" if "train" in splits else next(iter(splits)))]


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


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """A JSONL file, or one JSON array. A rollout file's head and end are no rows."""
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            begins = line.decode("utf-8-sig", errors="replace").strip() if number == 1 else ""
            if begins.startswith("[") or (begins.startswith("{") and _is_one_document(begins, path)):
                yield from _json_document(path)
                return
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                yield number, BadLine(f"line {number}: it is not UTF-8.")
            except (json.JSONDecodeError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
                yield number, BadLine(f"line {number}: it is not JSON ({reason}); {FORMS}.")
            else:
                if isinstance(row, dict) and (row.get("format") == "speckd.rollouts" or set(row) == {"complete"}):
                    continue
                yield number, row


def _is_one_document(first_line: str, path: Path) -> bool:
    """Whether a file that begins with an object is one JSON document over several lines, or rows within an object."""
    try:
        row = json.loads(first_line)
    except ValueError:
        return path.suffixes[:1] == [".json"]
    return len(row) == 1 and isinstance(next(iter(row.values())), list) and not set(row) & set(_OWN_NAMES)


def _json_document(path: Path) -> Iterator[tuple[int, Any]]:
    """One JSON array, an object that holds one ({"data": [...]}), or one row."""
    try:
        with _opened(path) as file:
            rows = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or "not UTF-8, or nested too deep"
        raise ValueError(f"{path} begins like a JSON array or object, but is not one ({reason}).") from None
    if isinstance(rows, dict):
        lists = [value for value in rows.values() if isinstance(value, list)]
        rows = lists[0] if len(lists) == 1 and not set(rows) & set(_OWN_NAMES) else [rows]
    yield from enumerate(rows, start=1)


def _opened(path: Path) -> Any:
    """A file as bytes, unpacked where it is packed by gzip."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(2**27)
    try:
        with _opened(path) as packed, io.TextIOWrapper(packed, encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=head.count)  # a comma where there is but one column
            reader = csv.DictReader(file, delimiter=delimiter)
            for row in reader:
                yield reader.line_num, {name: value for name, value in row.items() if name is not None}
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as CSV in UTF-8 ({error}).") from None


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError(f"{path} is a Parquet file. To read it: pip install pyarrow.") from None
    try:
        source = io.BytesIO(_opened(path).read()) if path.suffix.lower() == ".gz" else path
        batches = parquet.ParquetFile(source).iter_batches(batch_size=1024)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}).") from None


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _json_lines,
    ".json": _json_lines,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
