"""What a draft's training leaves: the draft, whole or absent, and the card that lies beside it."""

from pathlib import Path
from typing import Any

from torch import Tensor

from speckd.decoding.eagle import EagleLayer, save_draft
from speckd.files import whole_folder
from speckd.pairs import Pair


def write_draft(output: Path, layer: EagleLayer, vocabulary: Tensor, pair: Pair, facts: dict[str, Any]) -> None:
    """The draft with its card: whole or absent."""
    target = output / "draft"
    try:
        with whole_folder(target) as partial:
            save_draft(partial, layer, vocabulary, pair.teacher_sha256, facts)
            (partial / "README.md").write_text(card(facts, pair.teacher_sha256), encoding="utf-8")
        (output / "state.safetensors").unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"{target} cannot be written ({error.strerror or error}): free some space, then --resume."
        ) from error


def card(facts: dict[str, Any], teacher_sha256: str) -> str:
    """The README.md of a draft: what it is, how it was made, how good it is on held-out text."""
    settings, figures = facts["settings"], facts["held_out"]
    lines = [
        "# A draft for speculative decoding",
        "",
        f"One EAGLE-like decoder layer over the teacher `{facts['teacher']}` (sha256 `{teacher_sha256}`; no other "
        f"teacher may use it). It borrows the teacher's embedding and its head, cut to {settings['vocabulary']:,} "
        "tokens.",
        "",
        f"Trained on {facts['n_response_tokens']:,} response tokens of {facts['n_texts']:,} texts, "
        f"{facts['n_steps']:,} steps, {facts['seconds'] / 60:.1f} minutes ({facts['device']}):",
        "",
        "```sh",
        facts["command"],
        "```",
    ]
    if figures is not None:
        lines += [
            "",
            f"Held out ({figures['n_tokens']:,} tokens), by place in the chain:",
            "",
            "| place | agreement | kept from the start | acceptance |",
            "|---:|---:|---:|---:|",
        ]
        for place, row in enumerate(zip(figures["agreement"], figures["kept"], figures["acceptance"], strict=True), 1):
            lines.append(f"| {place} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
        among = ", ".join(f"{value:.3f}" for value in figures["among"])
        lines += [
            "",
            f"The teacher's choice is among its first 1, 2, 3, 10 in {among} of cases; its confidence is off by "
            f"{figures['calibration_error']:.3f} on average.",
        ]
    return "\n".join([*lines, ""])
