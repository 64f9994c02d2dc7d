"""Single values that a page or a client sent: checked, or refused in one sentence."""

import math
import traceback
from typing import Any


def as_text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name} is not text.")
    return value.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is no text


def without_words(error: BaseException) -> str:
    """An error for the log: its kind and where it happened. Not what it says, for that may quote a visitor."""
    lines = "".join(traceback.format_tb(error.__traceback__))
    return f"{type(error).__name__}\n{lines.rstrip()}"


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


FIELDS = {  # what the sentence of an error begins with -> the field of a form that it is about
    "The question": "prompt",
    "The given text": "response",
    "The length": "max_new_tokens",
    "The temperature": "temperature",
    "The seed": "seed",
    "The number of steps": "steps",
    "The batch size": "batch_size",
    "The learning rate": "learning_rate",
    "The LoRA rank": "lora_rank",
    "The gate": "gate-0",
    "The two gates": "gate-1",
    "Pasted prompts": "responses",
    "There are no prompts": "text",
    "The data": "text",
    "The file": "file",
    "Line ": "file",
    "The teacher": "teacher",
    "The student": "student",
}


def field_of(sentence: str) -> str | None:
    """The field that the sentence of an error is about; None where it is about none."""
    return next((field for words, field in FIELDS.items() if sentence.startswith(words)), None)


def as_whole(value: Any, name: str, least: int, most: int, unit: str = "") -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not is_whole(value) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r:.40}: choose a whole number from {least} to {most:,}{unit}.")
    return value


def as_real(value: Any, name: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r:.40}: choose a number from {least:g} to {most:g}.")
    if not least <= value <= most:
        raise ValueError(f"{name} is {value:g}: choose a number from {least:g} to {most:g}.")
    return float(value)
