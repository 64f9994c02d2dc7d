"""Gate against no gate: equal steps, several seeds, from the young and from the healed student.

    python tests/bench/compare_gates.py --output runs/gates [--starts young,healed] [--seeds 0,1,2] [--steps 60]

For each start and seed it trains plain distillation, Top-k, Spec-k, student entropy 20% and random tokens at the rate
that Top-k accepted, on the same batches, and prints held-out divergence, TAR and ROUGE-L with their spread over the
seeds. It can be stopped and started again: finished runs are kept. Not a part of `make bench`: it takes hours.
"""

import argparse
import json
import statistics
from pathlib import Path

from speckd.runs.distill import distill
from speckd.runs.report import RunRecord
from speckd.runs.settings import DistillSettings

ASSETS = Path(__file__).parents[2] / "assets"
GATES = ("none", "topk", "speck", "student_entropy", "random")
FIGURES = ("divergence", "tar", "acceptance", "agreement", "rouge_l")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", required=True)
    options.add_argument("--data", default=str(ASSETS / "responses" / "train.jsonl"))
    options.add_argument("--eval-data", default=str(ASSETS / "responses" / "heldout-greedy.jsonl"))
    options.add_argument("--starts", default="young,healed")
    options.add_argument("--gates", default=",".join(GATES))
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--batch-size", type=int, default=6)
    options.add_argument("--learning-rate", type=float, default=1e-3)
    options.add_argument("--eval-limit", type=int, default=60)
    options.add_argument("--rouge", type=int, default=20)
    chosen = options.parse_args()
    output, found = Path(chosen.output), []
    for start in chosen.starts.split(","):
        for seed in map(int, chosen.seeds.split(",")):
            tar = None
            for gate in chosen.gates.split(","):
                if gate == "random":
                    if tar is None:
                        raise SystemExit("random tokens need Top-k's TAR: name topk before random")
                    gate = f"random:rate={tar:.4f}:beta=0.01"
                record = one_run(chosen, output, start, seed, gate)
                if gate == "topk":
                    accepted = [row["tar"] for row in record.rows if "loss" in row]
                    tar = sum(accepted) / len(accepted)
                found.append({"start": start, "seed": seed, "gate": gate.split(":")[0], **record.after})
                tell(start, found, record)
    (output / "figures.json").write_text(json.dumps(found, indent=1) + "\n")
    for start in chosen.starts.split(","):
        table(start, [row for row in found if row["start"] == start])


def one_run(chosen: argparse.Namespace, output: Path, start: str, seed: int, gate: str) -> RunRecord:
    name = gate.split(":")[0]
    settings = DistillSettings(
        data=chosen.data,
        output=str(output / f"{Path(start).name}-{seed}-{name}"),
        student=start,
        eval_data=chosen.eval_data,
        eval_limit=chosen.eval_limit,
        gates=(gate,),
        steps=chosen.steps,
        warmup=max(1, chosen.steps // 10),
        batch_size=chosen.batch_size,
        learning_rate=chosen.learning_rate,
        max_length=256,
        seed=seed,
        rouge=chosen.rouge,
        cache_folder=str(output / "teacher-cache"),
    )
    return distill(settings, resume=True)[0]


def tell(start: str, found: list[dict], record: RunRecord) -> None:
    last = found[-1]
    print(
        f"{start:8} seed {last['seed']} {last['gate']:16} divergence {last['divergence']:.4f} TAR {last['tar']:.4f} "
        f"ROUGE-L {last.get('rouge_l') or float('nan'):.4f}  ({record.seconds:.0f} s)",
        flush=True,
    )


def table(start: str, rows: list[dict]) -> None:
    """Mean and spread (half the range) over the seeds, one line a gate."""
    print(f"\nfrom {start}: mean over seeds, ± half the range")
    print(f"{'gate':16} " + " ".join(f"{figure:>17}" for figure in FIGURES))
    for gate in dict.fromkeys(row["gate"] for row in rows):
        cells = []
        for figure in FIGURES:
            values = [row[figure] for row in rows if row["gate"] == gate and row.get(figure) is not None]
            spread = (max(values) - min(values)) / 2 if values else float("nan")
            cells.append(f"{statistics.mean(values):.4f} ± {spread:.4f}" if values else "-")
        print(f"{gate:16} " + " ".join(f"{cell:>17}" for cell in cells))


if __name__ == "__main__":
    main()
