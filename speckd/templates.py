"""What a chat template writes: how it renders messages, in which form it takes them, which tokens end a turn.

Templates are programs, so they are asked, not read: a marker stands for a content, and what is written around it shows.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

MARKER = "[[what the assistant says]]"  # stands for a content, to see what the template writes around it
_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
Message = Mapping[str, Any]
Messages = list[dict[str, Any]]


def end_tokens(tokenizer: Any, tail: str) -> list[int]:
    """The tokens that end a turn: the first behind the content, where it is one of the added tokens.

    Some templates close an answer and then the turn (Cohere): those that every turn of the assistant ends with.
    """
    tail = tail.lstrip()
    ids = ids_of(tokenizer, tail) if tail else []
    if not _is_added(tokenizer, ids[:1], tail):
        return []
    if ids[0] != tokenizer.eos_token_id:
        last, inner = tail_of(tokenizer, []), tail_of(tokenizer, [{"role": "user", "content": "question"}])
        run = ids_of(tokenizer, last[: shared_length(last, inner)])
        n_tokens = next((place + 1 for place, token in enumerate(run) if token == tokenizer.eos_token_id), 0)
        if n_tokens and run[:n_tokens] == ids[:n_tokens] and _is_added(tokenizer, ids[:n_tokens], tail):
            return ids[:n_tokens]
    return ids[:1]


def _is_added(tokenizer: Any, ids: list[int], text: str) -> bool:
    """Whether a text begins with these tokens, all of them added ones."""
    added = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return bool(ids) and added.issuperset(ids) and text.startswith("".join(tokenizer.convert_ids_to_tokens(ids)))


def tail_of(tokenizer: Any, further: Messages) -> str:
    """What the template writes behind an assistant's content, further turns included."""
    asked = [{"role": "user", "content": "question"}, {"role": "assistant", "content": MARKER}]
    try:
        text = render(tokenizer, [*asked, *further], None, None)
    except ValueError:
        return ""
    return text[text.rindex(MARKER) + len(MARKER) :] if MARKER in text else ""


def leaves_out(tokenizer: Any, what: str) -> bool:
    """Whether the chat template writes nothing of a system text, a tool's result or a call, nor refuses it."""
    if tokenizer.chat_template is None:
        return False
    asked, answer = {"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}
    call = {"id": "callnumb1", "type": "function", "function": {"name": MARKER, "arguments": {}}}
    calling = {"role": "assistant", "content": "", "tool_calls": [call]}
    conversations: dict[str, Sequence[Message]] = {
        "system": [{"role": "system", "content": MARKER}, asked, answer],
        "tool": [asked, answer, {"role": "tool", "content": MARKER, "tool_call_id": "callnumb1"}, answer],
        "tool_calls": [asked, calling],
    }
    try:
        return MARKER not in render(tokenizer, conversations[what], None, None)
    except ValueError:
        return False


def marked_tokens(
    tokenizer: Any,
    messages: Sequence[Message],
    chat_template_kwargs: Mapping[str, Any] | None,
    tools: Sequence[Any] | None,
    n_tokens: int,
) -> list[bool] | None:
    """Which tokens stand between the template's ``{% generation %}`` marks; None where it has none."""
    template = tokenizer.get_chat_template(tools=tools)
    if not _GENERATION_MARK.search(template):
        return None
    found = tokenizer.apply_chat_template(
        _as_taken(tokenizer, messages, tools),
        tools=tools,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True},
        **(chat_template_kwargs or {}),
    )
    marks = [bool(mark) for mark in found["assistant_masks"]]
    places = found["offset_mapping"]  # transformers marks a character's first token alone where a mark ends within it
    for at in range(1, len(marks)):
        marks[at] |= marks[at - 1] and places[at] == places[at - 1]
    return marks if len(marks) == n_tokens else None


_takes_parts: dict[str, bool] = {}  # by the template: whether it writes a message's content only where it is in parts


def _as_taken(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any] | None) -> list[dict[str, Any]]:
    """Messages as the template takes them: those of models that also see (LLaVA, SmolVLM) read lists of parts alone."""
    template = tokenizer.get_chat_template(tools=list(tools) if tools else None)
    plain = [dict(message) for message in messages]
    if template not in _takes_parts:
        asked = [{"role": "user", "content": MARKER}]
        written = [_written(tokenizer, turns) for turns in (asked, _in_parts(asked))]
        _takes_parts[template] = MARKER not in written[0] and MARKER in written[1]
    return _in_parts(plain) if _takes_parts[template] else plain


def _in_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**message, "content": [{"type": "text", "text": message.get("content") or ""}]} for message in messages]


def _written(tokenizer: Any, messages: Messages) -> str:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # whatever a template raises: it does not take them so
        return ""


def render(
    tokenizer: Any,
    messages: Sequence[Message],
    chat_template_kwargs: Mapping[str, Any] | None,
    tools: Sequence[Any] | None,
    prompt: bool = False,
) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            _as_taken(tokenizer, messages, tools),
            tools=list(tools) if tools else None,
            add_generation_prompt=prompt,
            tokenize=False,
            **(chat_template_kwargs or {}),
        )
    except (TemplateError, TypeError, KeyError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the chat template refuses it ({reason.rstrip('.')})") from None


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def shared_length(first: str, second: str) -> int:
    """Characters that two texts have in common from their beginning."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
