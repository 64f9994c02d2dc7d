"""Data as people have it: a row, whatever form it has, into a conversation.

A row is an object in one of these forms:

    {"prompt": "Why is the sky blue?", "response": "Because ..."}            also "completion" for "response"
    {"prompt": [messages], "completion": [messages]}                         conversational prompt and completion
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}
    {"messages": [... up to a user's turn], "response": "..."}
    {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}     ShareGPT
    {"instruction": "...", "input": "...", "output": "..."}     Alpaca; Dolly says "context" and "response"

Any of them may have a "system" text, and Alpaca's and prompt rows a "history" of [question, answer] pairs. Names count
without regard to capitals. A message's content is text, or a list of parts that are all text. Reasoning, tool calls
(ShareGPT's "function_call" among them) and results stay in it, and "tools" beside the messages goes to the template; a
message of "weight" 0 (or "train": false) is read and not trained. Tables keep messages as JSON or as Python writes
them, or column by column, and write NaN or null for what is not there. Where rows come from stands in
``data_files.py``.
"""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from speckd.templates import Messages

FORMS = (
    'give "prompt" with "response" or "completion", "messages", "conversations" (from, value), or "instruction" with '
    '"output"'
)
OWN_NAMES = ("prompt", "messages", "conversations", "conversation", "instruction")  # that tell a row's form
_BESIDE = (
    *("response", "completion", "input", "context", "output", "system", "history"),
    *("tools", "chat_template_kwargs", "finished", "response_ids"),
)
_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "function_call"), "assistant"),
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
    row = _named(row)
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
    extras = {name: value for name, kind in _EXTRAS.items() if (value := _extra(row.get(name), name, kind))}
    return Row(prompt, response, _says_yes(row.get("finished", True)), kept, extras)


_EXTRAS: dict[str, type] = {"tools": list, "chat_template_kwargs": dict}


def _extra(given: Any, name: str, kind: type) -> Any:
    value = _decoded(given)
    if value is None and not (isinstance(given, str) and given.strip()):
        return None
    if not isinstance(value, kind):
        raise ValueError(f'"{name}" is no JSON {"list" if kind is list else "object"}')
    return _without_nulls(value)


def _says_yes(value: Any) -> bool:
    """A truth value; tables write it as text."""
    return value.strip().lower() not in ("false", "no", "0") if isinstance(value, str) else bool(value)


def _named(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row with its names as they are written here, without what is not there, and of plain Python's types."""
    plain = {name: value for name, value in ((name, _plain(value)) for name, value in row.items()) if value is not None}
    for name in list(plain):
        known = str(name).strip().lower()
        if known != name and known not in plain and known in (*OWN_NAMES, *_BESIDE):
            plain[known] = plain.pop(name)
    return plain


def _plain(value: Any) -> Any:
    """Lists for arrays and tensors, plain numbers for theirs, and None for NaN: how tables write that there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if type(value).__name__ == "NAType" or (isinstance(value, float) and value != value):
        return None
    return value


def _without_nulls(value: Any) -> Any:
    """Tool calls and descriptions as they were written: tables give every entry the names of all, with null for most.

    So does TRL (``remove_none_values``); a template would write each null into the text.
    """
    if isinstance(value, Mapping):
        return {name: _without_nulls(entry) for name, entry in value.items() if entry is not None}
    return [_without_nulls(entry) for entry in value] if isinstance(value, list) else value


def _decoded(value: Any) -> Any:
    """Tables keep lists and objects as JSON text, or as Python writes them. None for text that is neither."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(value.strip()) if value.lstrip()[:1] in ("[", "{") else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _turns_in(value: Any) -> Any:
    """Messages where a text is a list of them, as tables keep a conversational prompt; else the value as it is."""
    if isinstance(value, str) and value.lstrip().startswith("[") and value.rstrip().endswith("]"):
        turns = _decoded(value)
        if isinstance(turns, list) and turns and all(isinstance(turn, dict) and _is_turn(turn) for turn in turns):
            return turns
    return value


def _is_turn(turn: Mapping[str, Any]) -> bool:
    return ("role" in turn and "content" in turn) or ("from" in turn and "value" in turn)


def _conversation(row: Mapping[str, Any]) -> Messages:
    """The messages of a row, the response among them where there is one."""
    for name in ("messages", "conversations", "conversation"):
        turns = _decoded(row.get(name)) if row.get(name) is not None else None
        if turns is not None or isinstance(row.get(name), str):
            messages = _messages(turns, name)
            found = _with_response(messages, row)
            if messages[-1]["role"] == "assistant" and len(found) > len(messages):
                if found[-1].get("content") != messages[-1].get("content"):
                    raise ValueError(
                        f'"{name}" ends with an answer, and beside it stands another: leave one of them out'
                    )
                return messages
            return found
    if row.get("instruction") is not None and (row.get("output") is not None or row.get("prompt") is None):
        text = _text(row["instruction"], "instruction")
        name = "input" if row.get("input") is not None else "context"
        if (more := row.get(name)) is not None and _text(more, name).strip():
            text = f"{text}\n\n{more}"
        answer = {"response": row["output"]} if row.get("output") is not None else row
        return _with_response([{"role": "user", "content": text}], answer)
    prompt = _turns_in(row.get("prompt"))
    if isinstance(prompt, list | tuple):
        return _with_response(_messages(prompt, "prompt"), row)
    if not isinstance(prompt, str) or not prompt.strip():
        came = f" (its names are {', '.join(map(str, list(row)[:6]))})" if row else ""
        raise ValueError(f'it has neither a "prompt" with text nor "messages"{came}; {FORMS}')
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
    response = _turns_in(row.get("response") if row.get("response") is not None else row.get("completion"))
    if response is None:
        return messages
    if isinstance(response, list | tuple):
        return [*messages, *_messages(response, "completion")]
    if isinstance(response, Mapping):
        return [*messages, *_messages([response], "response")]
    if not isinstance(response, str):
        raise ValueError('"response" is not text')
    return [*messages, {"role": "assistant", "content": response}]


def _messages(turns: Any, name: str) -> Messages:
    if isinstance(turns, Mapping) and turns and all(isinstance(column, list) for column in turns.values()):
        turns = [dict(zip(turns, turn, strict=False)) for turn in zip(*turns.values(), strict=False)]  # by columns
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
        calls = _function_calls(turn.get("value")) if str(turn["from"]).lower() == "function_call" else None
        said = {"content": turn.get("value")} if calls is None else {"content": "", "tool_calls": calls}
        turn = {"role": role, **said, **rest}
    elif "content" not in turn and "value" in turn and not turn.get("tool_calls"):
        turn = {("content" if name == "value" else name): value for name, value in turn.items()}
    if not isinstance(turn.get("role"), str):
        raise ValueError('a message has no "role"')
    role = _ROLES.get(turn["role"].lower(), turn["role"])  # "Assistant", or ShareGPT's names in a "role"
    message = {name: value for name, value in turn.items() if value is not None} | {"role": role}
    if "tool_calls" in message:
        message["tool_calls"] = _without_nulls(_decoded(message["tool_calls"]))
    if "content" not in message and message.get("tool_calls"):
        message["content"] = ""
    message["content"] = _content(message.get("content"))
    return message


def _function_calls(value: Any) -> list[dict[str, Any]] | None:
    """ShareGPT's function call, {"name": ..., "arguments": ...} or a list of them, as templates take it."""
    found = _decoded(value)
    calls = found if isinstance(found, list) else [found]
    if not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        return None
    return [{"type": "function", "function": {"arguments": {}, **call}} for call in calls]


def _content(content: Any) -> str:
    """A message's text; of a list of parts, theirs one after another."""
    if isinstance(content, Mapping) and isinstance(content.get("text"), str):
        content = [content]
    if isinstance(content, list | tuple):
        kinds = {part.get("type") or "text" if isinstance(part, Mapping) else "text" for part in content}
        if others := kinds - {"text", "input_text", "output_text"}:
            raise ValueError(f"a message holds {', '.join(sorted(map(str, others)))}: only text is read")
        content = "".join(str(part.get("text") or "") if isinstance(part, Mapping) else str(part) for part in content)
    if not isinstance(content, str):
        raise ValueError('a message has no "content" with text')
    return content
