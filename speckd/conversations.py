"""Conversations into token ids, exactly as the chat template writes them: one encoder for everybody.

The whole conversation is rendered and tokenised once, and then cut: what the template renders as the question with its
generation prompt is the prompt, the rest up to the end-of-turn token is the response. So a response has the blank, the
thinking block and the end of turn that the template writes, and no other. What a template writes after the end-of-turn
token (a newline, say) belongs to nobody and is left out.

Without a chat template the texts stand behind one another: turns with an empty line between them, the response right
after the prompt, ended by the tokenizer's end-of-text token.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from speckd.templates import (
    MARKER,
    Message,
    end_tokens,
    ids_of,
    marked_tokens,
    render,
    shared_length,
    tail_of,
)

Turns = Literal["all", "last"]


@dataclass(frozen=True)
class Encoded:
    """A conversation as token ids.

    Attributes:
        prompt_ids: everything before the first trained token.
        response_ids: from there to the end of the last trained turn.
        trained: which response tokens an assistant wrote; None where all of them.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    trained: list[bool] | None = None


def encode_prompt(
    tokenizer: Any,
    messages: Sequence[Message],
    chat_template_kwargs: Mapping[str, Any] | None = None,
    tools: Sequence[Any] | None = None,
) -> list[int]:
    """Token ids of a prompt with its generation prompt.

    Args:
        messages: up to a turn of somebody else than the assistant.
        chat_template_kwargs: switches of the template, such as {"enable_thinking": False}.
        tools: descriptions of functions, as templates take them.
    Raises:
        ValueError: the template refuses the messages.
    """
    if tokenizer.chat_template is None:
        return _plain_ids(tokenizer, _joined(messages))
    return ids_of(tokenizer, render(tokenizer, messages, chat_template_kwargs, tools, prompt=True))


def encode_turn(
    tokenizer: Any,
    messages: Sequence[Message],
    response: str,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    *,
    finished: bool = True,
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of a response to it, with its end-of-turn token where it is ``finished``."""
    whole = [*messages, {"role": "assistant", "content": response}]
    encoded = encode_conversation(tokenizer, whole, chat_template_kwargs, turns="last", finished=finished)
    return encoded.prompt_ids, encoded.response_ids


def encode_conversation(
    tokenizer: Any,
    messages: Sequence[Message],
    chat_template_kwargs: Mapping[str, Any] | None = None,
    tools: Sequence[Any] | None = None,
    *,
    turns: Turns = "all",
    finished: bool = True,
) -> Encoded:
    """A conversation that ends with an assistant's turn.

    Args:
        messages: its turns; at least one before the first assistant's.
        turns: which of the assistant's turns are trained. A template's own ``{% generation %}`` marks go before it.
        finished: whether the last turn reached its end; without, it has no end-of-turn token.
    Raises:
        ValueError: the template refuses the messages, or rewrites a turn so that its place cannot be told.
    """
    if tokenizer.chat_template is None:
        if not _is_trained(messages, len(messages) - 1):
            raise ValueError("without a chat template the last turn alone is trained, and it is marked as left out")
        return _without_template(tokenizer, messages, finished)
    text = render(tokenizer, messages, chat_template_kwargs, tools)
    ids = ids_of(tokenizer, text)
    places = [index for index, message in enumerate(messages) if _is_trained(messages, index)]
    if not places:
        raise ValueError("no turn of it is to be trained")
    if turns == "last" or len(places) == 1:
        places = places[-1:]
    spans = [_span(tokenizer, messages, index, text, ids, chat_template_kwargs, tools, finished) for index in places]
    closing = spans[-1].closing
    trained = marked_tokens(tokenizer, messages, chat_template_kwargs, tools, len(ids))
    if trained is not None:
        left_out = [
            _span(tokenizer, messages, index, text, ids, chat_template_kwargs, tools, finished)
            for index, message in enumerate(messages)
            if message["role"] == "assistant" and not _is_marked(message)
        ]
        for span in left_out:
            trained[span.start : span.end] = [False] * (span.end - span.start)
        if turns == "last":
            trained = [mark and place >= spans[-1].start for place, mark in enumerate(trained)]
        if not finished:
            trained = [mark and place < spans[-1].end for place, mark in enumerate(trained)]
    if trained is None or not any(trained):
        trained = [any(span.start <= place < span.end for span in spans) for place in range(len(ids))]
    if not any(trained):
        return Encoded(ids[: spans[0].start], closing)
    first = trained.index(True)
    end = len(trained) - trained[::-1].index(True)
    response, marks = ids[first:end] + closing, trained[first:end] + [True] * len(closing)
    return Encoded(ids[:first], response, None if all(marks) else marks)


def _is_trained(messages: Sequence[Message], index: int) -> bool:
    """Whether a turn is the assistant's, answers somebody, says something, and is not marked as left out."""
    message = messages[index]
    if message["role"] != "assistant" or index == 0:
        return False
    says = bool((message.get("content") or "").strip() or message.get("tool_calls")) or index == len(messages) - 1
    return says and _is_marked(message)


def _is_marked(message: Message) -> bool:
    """Whether a turn counts: OpenAI's files give one that does not a "weight" of 0, others a "train" of false."""
    return all(bool(message.get(name, True)) for name in ("weight", "train", "training"))


def end_of_turn_ids(tokenizer: Any) -> list[int]:
    """The token by which the chat template ends an assistant's turn: one, or none where it writes no such token."""
    if tokenizer.chat_template is None:
        return []
    return end_tokens(tokenizer, tail_of(tokenizer, []))[-1:]


def template_switches(given: Any) -> dict[str, Any]:
    """Switches of a chat template from a dict, or from its JSON as a shell gives it.

    Raises:
        ValueError: they are neither.
    """
    if isinstance(given, str) and given.strip():
        try:
            given = json.loads(given)
        except ValueError:
            given = [given]
    if not given:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError('chat_template_kwargs is no JSON object: write it as {"enable_thinking": false}.')
    return dict(given)


# --- with a template ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Span:
    """A turn's tokens, from start to end, and what is added where the template does not end it by a token."""

    start: int
    end: int
    closing: list[int]


def _span(
    tokenizer: Any,
    messages: Sequence[Message],
    index: int,
    text: str,
    ids: list[int],
    chat_template_kwargs: Mapping[str, Any] | None,
    tools: Sequence[Any] | None,
    finished: bool,
) -> _Span:
    """The place of one assistant's turn in the rendered conversation."""
    last = index == len(messages) - 1
    prompt = render(tokenizer, messages[:index], chat_template_kwargs, tools, prompt=True)
    start = shared_length(prompt, text)
    if start < len(prompt):  # what is written differs from the generation prompt (a "<think>" that the model gets)
        bare = render(tokenizer, messages[:index], chat_template_kwargs, tools)
        if not text.startswith(bare.rstrip()):
            raise _rewritten(index)
    end, tail = _content_end(tokenizer, messages, index, text, chat_template_kwargs, tools)
    if end < start:
        raise _rewritten(index)
    tokens = end_tokens(tokenizer, tail)
    closing: list[int] = []
    if tokens and (finished or not last):
        end += len(tail) - len(tail.lstrip()) + sum(map(len, tokenizer.convert_ids_to_tokens(tokens)))
    elif finished and last and tokenizer.eos_token_id is not None and not tokens:
        closing = [tokenizer.eos_token_id]
    return _Span(_n_tokens(tokenizer, text[:start], ids), _n_tokens(tokenizer, text[:end], ids), closing)


def _content_end(
    tokenizer: Any,
    messages: Sequence[Message],
    index: int,
    text: str,
    chat_template_kwargs: Mapping[str, Any] | None,
    tools: Sequence[Any] | None,
) -> tuple[int, str]:
    """Where a turn's content ends in the rendered text, its tool calls included, and what follows it there."""
    marked = [dict(message) for message in messages]
    marked[index] = {"role": "assistant", "content": MARKER}
    calls = bool(messages[index].get("tool_calls"))
    try:
        other = render(tokenizer, marked, chat_template_kwargs, tools)
    except ValueError:  # a result whose call is gone
        if not calls:
            raise
        other = ""
    at = other.rfind(MARKER)
    tail = other[at + len(MARKER) :]
    if at >= 0 and text.endswith(tail):
        return len(text) - len(tail), tail
    if calls:  # a template that ends calls in a way of their own
        return _calls_end(tokenizer, messages, index, text, chat_template_kwargs, tools)
    raise _rewritten(index)


def _calls_end(
    tokenizer: Any,
    messages: Sequence[Message],
    index: int,
    text: str,
    chat_template_kwargs: Mapping[str, Any] | None,
    tools: Sequence[Any] | None,
) -> tuple[int, str]:
    """The same of a turn with tool calls, found by the conversation up to it, which may differ in its end token."""
    until = render(tokenizer, messages[: index + 1], chat_template_kwargs, tools)
    n_shared = shared_length(until, text)
    shown, rest = text[:n_shared].rstrip(), until[n_shared:].strip()
    if rest and "".join(tokenizer.convert_ids_to_tokens(end_tokens(tokenizer, rest))) != rest:
        raise _rewritten(index)
    ids = ids_of(tokenizer, shown)
    token = tokenizer.convert_ids_to_tokens(ids[-1])
    is_end = ids[-1] in tokenizer.added_tokens_decoder and shown.endswith(token)
    end = len(shown) - (len(token) if is_end else 0)
    return end, text[end:]


def _rewritten(index: int) -> ValueError:
    return ValueError(f"the chat template rewrites what stands before or after turn {index + 1}")


def _n_tokens(tokenizer: Any, beginning: str, ids: list[int]) -> int:
    """How many of a text's tokens lie within its beginning. One that reaches beyond it does not."""
    part = ids_of(tokenizer, beginning)
    if ids[: len(part)] == part:
        return len(part)
    return next(place for place, token in enumerate(part) if place >= len(ids) or ids[place] != token)


# --- without ----------------------------------------------------------------------------------------------------------


def _joined(messages: Sequence[Message]) -> str:
    return "\n\n".join(message["content"] for message in messages if message.get("content"))


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    """With the tokenizer's begin token, but without an end-of-text token: a prompt is not over."""
    ids = list(tokenizer(text)["input_ids"])
    eos = tokenizer.eos_token_id
    appended = eos is not None and ids[-1:] == [eos] and not text.endswith(tokenizer.eos_token)
    return ids[:-1] if appended else ids


def _without_template(tokenizer: Any, messages: Sequence[Message], finished: bool) -> Encoded:
    prompt = _joined(messages[:-1])
    before, ids = _plain_ids(tokenizer, prompt), _plain_ids(tokenizer, prompt + messages[-1]["content"])
    start = next((place for place, pair in enumerate(zip(before, ids, strict=False)) if pair[0] != pair[1]), None)
    start = min(len(before), len(ids)) if start is None else start
    closing = [tokenizer.eos_token_id] if finished and tokenizer.eos_token_id is not None else []
    return Encoded(ids[:start], ids[start:] + closing)


def stop_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer, the one rule for inspection, training and evaluation.

    Those of the model's generation settings, the tokenizer's own, and the one by which the chat template ends an
    assistant's turn: a base model's configuration often does not know the last.
    """
    listed = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [] if listed is None else ([listed] if isinstance(listed, int) else list(listed))
    for token in [tokenizer.eos_token_id, *end_of_turn_ids(tokenizer)]:
        if token is not None and token not in ids:
            ids.append(token)
    return ids
