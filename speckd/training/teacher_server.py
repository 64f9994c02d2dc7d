"""A teacher behind an OpenAI-compatible server that returns prompt log-probabilities, as vLLM does.

    vllm serve Qwen/Qwen2.5-7B-Instruct --max-logprobs 64 --no-enable-prefix-caching

``--max-logprobs`` is 20 by default and a server refuses to tell more; with prefix caching on, some versions tell
nothing about a prompt's cached part. Texts go as token ids, so both sides must have one tokenizer: the server's own
words for its tokens are compared with ours. From shell and Python only: the page never asks a server.

Its log-probabilities are those of temperature 1. Another cannot be had from K tokens.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import torch

from speckd.data import Example
from speckd.top_tokens import TopTokens
from speckd.training.teacher_file import DEFAULT_KEPT

KEY_VARIABLE = "SPECKD_TEACHER_KEY"  # the environment variable with the server's key, where it wants one
LEAST_REST = 1e-9  # what is left for all other tokens where a server's rounded numbers leave nothing


class ServerError(OSError):
    """A teacher's server cannot be reached, or does not tell what is needed. The message names the way out."""


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
            if not listed:
                raise ServerError(f"{url} lists no model: name one.")
            model = listed[0]["id"]
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
        choices = sorted(answer.get("choices") or [], key=lambda choice: choice.get("index", 0))
        if len(choices) != len(examples):
            raise ServerError(f"{self.url} answered {len(choices)} of {len(examples)} texts.")
        return [self._rows(choice, example) for choice, example in zip(choices, examples, strict=True)]

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
        for row, entries in enumerate(told[first:length]):
            # The text's own token comes too, wherever it stands: K by likelihood, of equals the lower id first.
            ranked = sorted((-float(entry["logprob"]), int(token)) for token, entry in entries.items())[: self.n_kept]
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
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            raise self._refused(error.code, error.read().decode(errors="replace")) from None
        except (OSError, TimeoutError) as error:
            reason = getattr(error, "reason", error)
            raise ServerError(f"{self.url} cannot be reached ({reason}): is the server running?") from error
        except ValueError as error:
            raise ServerError(f"{self.url} does not answer in JSON: is it an OpenAI-compatible server?") from error
        if not isinstance(found, dict):
            raise ServerError(f"{self.url} does not answer as an OpenAI-compatible server does.")
        return found

    def _refused(self, code: int, text: str) -> ServerError:
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
