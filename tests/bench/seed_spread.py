"""By how much a change of seed moves a race: the page's default race, once a seed, on the same data.

    python tests/bench/seed_spread.py --output runs/seeds [--seeds 0,1,2] [--set steps=24 ...] [--write]

Prints each racer's held-out figures and the difference between the two, seed by seed. With --write the spread goes to
assets/runs/seed-spread.json, where the verdict of a run with the same settings finds it; without, only into the output
folder. It can be stopped and started again: finished racers are kept. Each seed takes as long as the page's race.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from app.requests import TrainingRequest
from app.settings import Settings
from speckd.files import write_whole
from speckd.runs.distill import distill
from speckd.runs.settings import DistillSettings
from speckd.runs.telling import SEED_SPREAD

# What may differ between two runs that the same spread speaks of: it has no part in the figures, or is the seed itself.
FREE = (
    "output", "seed", "cache_folder", "teacher_cache", "eval_every", "probe_every", "answers", "name", "report_to",
    "save_every", "keep_checkpoints", "save_dtype", "rouge", "device", "dtype", "activation_checkpointing",
)  # fmt: skip
FIGURES = ("divergence", "tar")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", required=True)
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of the page's request")
    options.add_argument("--write", action="store_true", help="into assets/runs/seed-spread.json")
    chosen = options.parse_args()
    asked: dict[str, Any] = {}
    for item in chosen.set:
        name, _, value = item.partition("=")
        asked[name] = value.split(",") if name == "gates" else json.loads(value) if value[:1].isdigit() else value
    seeds = [int(seed) for seed in chosen.seeds.split(",")]
    races, settings = {}, None
    for seed in seeds:
        request = TrainingRequest.read({**asked, "seed": seed}, Settings())
        folder = Path(chosen.output) / str(seed)
        settings = replace(request.settings(str(folder), ""), probe_every=0, answers=0)
        records = distill(settings, resume=folder.exists())
        races[seed] = [record.after for record in records]
        for record in records:
            print(
                f"seed {seed}  {record.name:30}", *(f"{name} {record.after[name]:.4f}" for name in FIGURES), flush=True
            )
    assert settings is not None
    found = spread(settings, races)
    for name in FIGURES:
        print(f"{name}: differences {found['differences'][name]}, half their range {found[name]:.4f}")
    text = json.dumps(found, indent=1) + "\n"
    write_whole(Path(chosen.output) / "seed-spread.json", text)
    if chosen.write:
        write_whole(SEED_SPREAD, text)


def spread(settings: DistillSettings, races: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Half the range over seeds of the second racer's figure less the first's, and the settings that it holds for."""
    kept = {name: value for name, value in asdict(settings).items() if name not in FREE}
    differences = {name: [round(second[name] - first[name], 5) for first, second in races.values()] for name in FIGURES}
    half_range = {name: (max(values) - min(values)) / 2 for name, values in differences.items()}
    kept["gates"] = sorted(kept["gates"])
    return {"settings": kept, "seeds": list(races), "differences": differences, **half_range}


if __name__ == "__main__":
    main()
