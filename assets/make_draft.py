"""Make the draft that ships: short runs of several losses on the same texts, then one long run of the best.

    python assets/make_draft.py --data assets/responses/train.jsonl,assets/responses/self-asked.jsonl,asked.jsonl \
        --dev assets/responses/dev.jsonl --held-out assets/responses/heldout-greedy.jsonl --output runs/draft \
        --device cuda --precision bf16 --batch-size 64 --compare-steps 300 --minutes 2.5

Which loss is best is decided on the dev answers (tokens that a chain of four would win); the long run's figures are those
of the held-out ones. The long run's steps are what its minutes hold, at the speed that the short runs had. Every run is
one of ``python -m speckd distill --draft eagle``, whose command stands in its folder; here they share the teacher's pass.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from speckd.jobs import Progress
from speckd.training.draft import distill_draft
from speckd.training.draft_data import DraftData, read_draft_data
from speckd.training.draft_figures import DraftFigures, in_words
from speckd.training.draft_settings import DraftSettings

VARIANTS: dict[str, dict[str, object]] = {
    "forward-kl": {},
    "forward-kl-slow": {"learning_rate": 1e-3},
    "acceptance": {"divergence": "acceptance"},
    "topk-gate": {"gate": "topk:k=5:beta=0.01"},
    "topk-gate-hard": {"gate": "topk:k=20:beta=0"},
    "hellinger": {"gate": "hellinger"},
    "reverse-kl": {"divergence": "reverse_kl"},
    "jsd": {"divergence": "jsd"},
    "one-step": {"depth": 1},
    "one-step-first": {"single": 0.6},
}


def tokens_won(figures: DraftFigures, depth: int = 4) -> float:
    """Drafted tokens that a chain of this depth wins a round, if its places are accepted as they agree."""
    won, reached = 0.0, 1.0
    for share in figures.agreement[:depth]:
        reached *= share
        won += reached
    return won


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FILES")
    parser.add_argument("--dev", required=True, metavar="FILE")
    parser.add_argument("--held-out", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--precision", default="full", choices=("full", "bf16"))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--inner", type=int)
    parser.add_argument("--limit", type=int, help="texts of each file")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="of the short runs, with commas")
    parser.add_argument("--compare-steps", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=2.5, help="of the long run")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    base = DraftSettings(
        data=options.data,
        output=str(options.output / "data"),
        eval_data=options.dev,
        device=options.device,
        dtype=options.dtype,
        precision=options.precision,
        batch_size=options.batch_size,
        vocabulary=options.vocabulary,
        inner=options.inner,
        limit=options.limit,
        keep_features=False,
    )
    started = time.monotonic()

    def say(event: Progress) -> None:
        if event.done == event.total or event.done % 100 == 0:
            print(
                f"{time.monotonic() - started:6.1f} s  {event.stage} {event.done}/{event.total} {event.text}",
                flush=True,
            )

    data = read_draft_data(base, say)
    rows = []
    for name in filter(None, options.variants.split(",")):
        settings = replace(base, output=str(options.output / name), steps=options.compare_steps, **VARIANTS[name])
        facts, figures = distill_draft(settings, on_progress=say, data=data)
        assert figures is not None
        rows.append({"variant": name, "won": tokens_won(figures), **facts["held_out"], "seconds": facts["seconds"]})
        print(f"{name}: {tokens_won(figures):.3f} tokens won of 4; {in_words(figures)}", flush=True)
        (options.output / "compared.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    best = max(rows, key=lambda row: row["won"])["variant"] if rows else "forward-kl"
    seconds_a_step = next((row["seconds"] / options.compare_steps for row in rows if row["variant"] == best), 0.1)
    settings = replace(
        base,
        output=str(options.output / "best"),
        eval_data=options.held_out,
        steps=max(options.compare_steps, int(60 * options.minutes / seconds_a_step)),
        save_every=100,
        **VARIANTS[best],
    )
    held = read_held_out(settings, data)
    facts, figures = distill_draft(settings, on_progress=say, data=held)
    assert figures is not None
    print(f"{best}, {facts['n_steps']} steps, {facts['seconds']} s: {in_words(figures)}")
    print((options.output / "best" / "draft" / "README.md").read_text(encoding="utf-8"))


def read_held_out(settings: DraftSettings, data: DraftData) -> DraftData:
    """The same texts with the held-out answers in place of the dev ones."""
    held = read_draft_data(replace(settings, data=settings.eval_data or "", eval_data=None), lambda _: None)
    return DraftData(data.pair, data.vocabulary, data.texts, held.texts)


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
