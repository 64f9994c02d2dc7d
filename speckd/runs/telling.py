"""A run in words: its verdict, the spread of a change of seed, and the card of its student."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speckd.pairs import Pair
from speckd.runs.report import RunRecord, to_markdown
from speckd.runs.settings import DistillSettings, command_of


def verdict(records: Sequence[RunRecord], seed_spread: float | None = None) -> str:
    """What happened, in a few sentences true to the numbers.

    Args:
        records: of one race, or one run.
        seed_spread: by how much a change of seed moves the difference between two racers' held-out divergences; None
            where nobody measured it for these settings.
    """
    if not records or not records[0].after:
        return "No held-out text was given, so nothing is known but the training curves."
    if len(records) == 1:
        before, after = records[0].before, records[0].after
        words = (
            f"In {records[0].settings['steps']} steps the held-out divergence went from {before['divergence']:.3f} to "
            f"{after['divergence']:.3f} nats a token, and TAR from {before['tar']:.3f} to {after['tar']:.3f}."
        )
        return " ".join([words, *_masked(records)])
    best, second = sorted(records, key=lambda record: record.after["divergence"])[:2]
    gap = second.after["divergence"] - best.after["divergence"]
    words = (
        f"{_first(best.name)} reached the lower held-out divergence: {best.after['divergence']:.3f} nats a token, "
        f"{gap:.3f} below {second.name}."
    )
    steps = [record.settings["steps"] for record in (best, second)]
    if steps[0] != steps[1]:
        doubt = f"But that is {steps[0]} steps against {steps[1]}: the run was stopped, so it is no comparison."
    elif seed_spread is None:
        doubt = "One seed each: a change of seed may move these figures as much."
    elif gap > seed_spread:
        doubt = f"A change of seed moves that difference by about {seed_spread:.3f}, so it is more than chance."
    else:
        doubt = f"A change of seed moves that difference by about {seed_spread:.3f}, so it says nothing."
    return " ".join([words, *_masked(records), doubt])


def _masked(records: Sequence[RunRecord]) -> list[str]:
    """One sentence for each racer whose gate rejected something."""
    sentences = []
    for record in records:
        rows = [row for row in record.rows if "loss" in row and row.get("tar") is not None]
        rejected = 1 - sum(row["tar"] for row in rows) / len(rows) if rows else 0.0
        if rejected > 0 and any(row.get("masked_share", 0) for row in rows):  # plain distillation only counts them
            sentences.append(f"{_first(record.name)} rejected {rejected:.0%} of the training tokens.")
    return sentences


def _first(name: str) -> str:
    """A racer's name as a sentence begins with it."""
    return name[:1].upper() + name[1:]


SEED_SPREAD = Path(__file__).parents[2] / "assets" / "runs" / "seed-spread.json"


def seed_spread(settings: DistillSettings) -> float | None:
    """The measured spread over seeds (tests/bench/seed_spread.py), if it was measured for such a run."""
    try:
        measured = json.loads(SEED_SPREAD.read_text(encoding="utf-8"))
    except OSError:
        return None
    asked = json.loads(json.dumps(asdict(settings)))
    asked["gates"] = sorted(asked["gates"])
    same = all(asked.get(name) == value for name, value in measured["settings"].items())
    return float(measured["divergence"]) if same else None


def _is_hub_id(name: Any) -> bool:
    """Whether a name is spelt as the Hub spells them, and no folder here: an adapter may call its base anything."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def model_card(pair: Pair, record: RunRecord, settings: DistillSettings) -> str:
    """The README.md of a trained student: what it is, how it was made, how good it is, how to load it."""
    from peft import PeftModel

    adapter = isinstance(pair.student, PeftModel)
    base = pair.student.peft_config["default"].base_model_name_or_path if adapter else pair.teacher_id
    front = ["---", f"library_name: {'peft' if adapter else 'transformers'}", "tags: [speckd, distillation]"]
    public = _is_hub_id(base)
    front += [f"base_model: {base}"] if public else []
    front += ["---", ""]
    base = base if public else "folder/of/the/base/model"
    loading = (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{base}")\nmodel = PeftModel.from_pretrained(base, "student")'
        if adapter
        else 'from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained("student")'
    )
    report = to_markdown([record], settings.name, verdict([record]), command_of(settings))
    exact = f"The figures hold for the teacher with sha256 `{pair.teacher_sha256}`."
    return "\n".join([*front, report, exact, "", "```python", loading, "```", ""])
