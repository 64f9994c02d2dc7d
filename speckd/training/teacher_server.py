"""A teacher behind an OpenAI-compatible server that returns prompt log-probabilities, as vLLM does.

    vllm serve Qwen/Qwen2.5-7B-Instruct --max-logprobs 64 --no-enable-prefix-caching

``--max-logprobs`` is 20 by default and a server refuses to tell more; with prefix caching on, some versions tell
nothing about a prompt's cached part. Texts go as token ids, so both sides must have one tokenizer: the server's own
words for its tokens are compared with ours. From shell and Python only: the page never asks a server.

Its log-probabilities are those of temperature 1. Another cannot be had from K tokens.
"""

import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import torch

from speckd.data import Example
from speckd.top_tokens import TopTokens
from speckd.training.teacher_file import DEFAULT_KEPT

KEY_VARIABLE = "SPECKD_TEACHER_KEY"  # the environment variable with the server's key, where it wants one
WAITS = (1.0, 5.0, 20.0)  # seconds before a request that a busy server put off is sent again
_FOR_NOW = (429, 500, 502, 503, 504)  # refusals that may be over in a moment
LEAST_REST = 1e-9  # what is left for all other tokens where a server's rounded numbers leave nothing


class ServerError(OSError):
    """A teacher's server cannot be reached, or does not tell what is needed. The message names the way out."""


class _StayHere(urllib.request.HTTPRedirectHandler):
    """No redirect is followed: it would carry the key and the texts to another machine."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_StayHere)


class TeacherServer:
    """A teacher that is asked over HTTP.

    Args:
        url: of the API, such as "http://localhost:8000/v1".
        model: its name there; the first of the server's list if None.
        tokenizer: the student's, which made the ids; the server's words for its tokens are compared with it.
        n_kept: K, tokens a row; the server must allow as many.
        seconds: how long one answer may take.
    Raises:
        ServerError: it cannot be reached, or lists no model.
        ValueError: the url is none, or K is below 1.
    """

    temperature = 1.0
    teacher_sha256 = ""  # a server does not tell

    def __init__(
        self,
        url: str,
        model: str | None = None,
        tokenizer: Any = None,
        *,
        n_kept: int = DEFAULT_KEPT,
        seconds: float = 600,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is not the address of a server: give one such as http://localhost:8000/v1.")
        if n_kept < 1:
            raise ValueError(f"K is {n_kept}: choose a whole number, 1 or more.")
        self.url, self.n_kept, self.seconds = url.rstrip("/"), n_kept, seconds
        if model is None:
            listed = self._ask("models").get("data") or []
            model = listed[0].get("id") if isinstance(listed, list) and isinstance(listed[0], dict) else None
            if not model:
                raise ServerError(f"{url} lists no model: name one.")
        self.model = self.teacher_id = model
        self.know(tokenizer)

    def know(self, tokenizer: Any) -> None:
        """Compare the server's words with this tokenizer's from now on."""
        self.tokenizer, self._checked = tokenizer, tokenizer is None
        self.vocabulary_size = len(tokenizer) if tokenizer is not None else 2**31 - 1

    def top_tokens(self, examples: Sequence[Example]) -> list[TopTokens]:
        """The rows of each example's response, asked for in one request.

        Raises:
            ServerError: it cannot be reached, allows fewer log-probabilities, or has another tokenizer.
        """
        if not examples:
            return []
        answer = self._ask(
            "completions",
            {
                "model": self.model,
                "prompt": [example.prompt_ids + example.response_ids for example in examples],
                "max_tokens": 1,
                "temperature": 0.0,
                "prompt_logprobs": self.n_kept,
            },
        )
        try:
            choices = sorted(answer.get("choices") or [], key=lambda choice: choice.get("index", 0))
            if len(choices) != len(examples):
                raise ServerError(f"{self.url} answered {len(choices)} of {len(examples)} texts.")
            return [self._rows(choice, example) for choice, example in zip(choices, examples, strict=True)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ServerError(
                f"{self.url} tells log-probabilities in a form that is not vLLM's ({type(error).__name__}: {error})."
            ) from error

    def _rows(self, choice: dict[str, Any], example: Example) -> TopTokens:
        told = choice.get("prompt_logprobs")
        first, length = len(example.prompt_ids), len(example.prompt_ids) + len(example.response_ids)
        if not isinstance(told, list) or len(told) != length or any(not told[at] for at in range(first, length)):
            raise ServerError(
                f"{self.url} does not tell every token's log-probabilities: a server with prompt_logprobs is needed, "
                "such as vLLM with --no-enable-prefix-caching."
            )
        ids = torch.zeros(len(example.response_ids), self.n_kept, dtype=torch.int64)
        logprobs = torch.zeros(len(example.response_ids), self.n_kept, dtype=torch.float64)
        trained = example.trained or [True] * len(example.response_ids)
        for row, (own, entries) in enumerate(zip(example.response_ids, told[first:length], strict=True)):
            # The text's own token comes too, wherever it stands: K by likelihood, of equals the lower id first.
            ranked = sorted((-float(entry["logprob"]), int(token)) for token, entry in entries.items())
            if own not in (token for _, token in ranked):
                raise ServerError(
                    f"{self.url} tells log-probabilities of other tokens than it was asked about: it has another "
                    "tokenizer, or puts tokens of its own before a text."
                )
            if any(math.isnan(value) or value < -1e-3 for value, _ in ranked):
                raise ServerError(f"{self.url} tells numbers that are no log-probabilities: {-ranked[0][0]}.")
            ranked = ranked[: self.n_kept]
            if len(ranked) < self.n_kept:
                raise ServerError(
                    f"{self.url} tells {len(ranked)} log-probabilities a token where {self.n_kept} were asked for: "
                    f"start it with --max-logprobs {self.n_kept}, or ask for fewer."
                )
            ids[row] = torch.tensor([token for _, token in ranked])
            logprobs[row] = torch.tensor([-value for value, _ in ranked])
            self._compare_words(entries)
        chosen = torch.tensor(trained, dtype=torch.bool)
        ids, logprobs = ids[chosen], logprobs[chosen]
        rest = (1.0 - logprobs.exp().sum(-1)).clamp(min=LEAST_REST).log()
        return TopTokens(ids, logprobs.float(), rest.float())

    def _compare_words(self, entries: dict[str, Any]) -> None:
        """Once: do the server's ids mean what ours mean? Half of the words at least must be ours."""
        words = {int(token): entry.get("decoded_token") for token, entry in entries.items()}
        words = {token: word for token, word in words.items() if word and "\ufffd" not in word}
        if self._checked or not words:
            return
        alike = sum(self._word(token) == word.strip() for token, word in words.items())
        if 2 * alike < len(words):
            token, word = next(iter(words.items()))
            raise ServerError(
                f"{self.url} has another tokenizer: token {token} is {word!r} there and {self._word(token)!r} here. "
                "Teacher and student need one shared vocabulary."
            )
        self._checked = True

    def _word(self, token: int) -> str:
        return self.tokenizer.decode([token]).strip() if token < len(self.tokenizer) else ""

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}/{path}", json.dumps(body).encode() if body else None)
        request.add_header("Content-Type", "application/json")
        if key := os.environ.get(KEY_VARIABLE):
            request.add_header("Authorization", f"Bearer {key}")
        for wait in (*WAITS, None):
            try:
                return self._answer(request)
            except urllib.error.HTTPError as error:
                if wait is None or error.code not in _FOR_NOW:
                    raise self._refused(error) from None
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _answer(self, request: urllib.request.Request) -> dict[str, Any]:
        """One request and its answer; a refusal comes as urllib's HTTPError."""
        try:
            with _OPENER.open(request, timeout=self.seconds) as answer:
                found = json.loads(answer.read())
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ServerError(f"{self.url} cannot be reached ({reason}): is the server running?") from error
        except ValueError as error:
            raise ServerError(f"{self.url} does not answer in JSON: is it an OpenAI-compatible server?") from error
        if not isinstance(found, dict):
            raise ServerError(f"{self.url} does not answer as an OpenAI-compatible server does.")
        return found

    def _refused(self, error: urllib.error.HTTPError) -> ServerError:
        code = error.code
        if code in (301, 302, 303, 307, 308):
            return ServerError(f"{self.url} sends on to {error.headers.get('Location')}: give that address itself.")
        try:
            text = error.read(10_000).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            text = ""
        try:
            said = json.loads(text)
            text = (said.get("error") or said).get("message") or text
        except (ValueError, AttributeError):
            pass
        text = " ".join(str(text).split())[:200]
        if "logprobs" in text:
            return ServerError(
                f"{self.url} does not allow {self.n_kept} log-probabilities a token ({text}): start it with "
                f"--max-logprobs {self.n_kept}, or ask for fewer."
            )
        if code in (401, 403):
            return ServerError(f"{self.url} wants a key: put it into the environment variable {KEY_VARIABLE}.")
        return ServerError(f"{self.url} refused ({code}): {text or 'no reason given'}.")
