"""A run in words: its verdict, the spread of a change of seed, and the card of its student."""

import json
from dataclasses import asdict
from pathlib import Path

from speckd.pairs import Pair
from speckd.runs.settings import DistillSettings, command_of
from speckd.training import card
from speckd.training.record import RunRecord, verdict

__all__ = ["SEED_SPREAD", "model_card", "seed_spread", "verdict"]


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


def model_card(pair: Pair, record: RunRecord, settings: DistillSettings) -> str:
    """The README.md of a run's student, with the command that repeats the run."""
    return card.model_card(pair, record, settings.push_to_hub or settings.name, verdict([record]), command_of(settings))
