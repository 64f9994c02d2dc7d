"""``python -m speckd evaluate``: score students on held-out text."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speckd.cli.options import pair_from
from speckd.cli.terminal import progress_bars
from speckd.conversations import template_switches
from speckd.files import write_whole
from speckd.gates import DEFAULT_K
from speckd.jobs import Progress
from speckd.packaged import PACKAGED

if TYPE_CHECKING:
    from torch import Tensor


def register(commands: Any) -> None:
    command = commands.add_parser(
        "evaluate",
        help="score a student on held-out text",
        description="Score any pair's student on given answers: divergence, TAR, acceptance probability, next-token "
        "agreement, and ROUGE-L of greedy answers. Several students are each compared with the first.",
    )
    command.add_argument("data", metavar="DATA", help="prompts and responses: a file or a Hub id")
    command.add_argument("--teacher", default=PACKAGED)
    command.add_argument("--student", action="append", help="'healed' (default) or another; may be given several times")
    command.add_argument("--revision")
    command.add_argument("--student-revision")
    command.add_argument("--device")
    command.add_argument("--dtype")
    command.add_argument("--k", type=int, default=DEFAULT_K, help=f"of TAR ({DEFAULT_K})")
    command.add_argument("--divergence", default="forward_kl")
    command.add_argument("--temperature", type=float, default=1.0)
    command.add_argument("--limit", type=int, help="score at most so many examples")
    command.add_argument("--max-length", type=int, default=1024)
    command.add_argument("--chat-template-kwargs", default="", metavar="JSON", help="switches of the chat template")
    command.add_argument("--turns", choices=("all", "last"), default="all", help="which turns are scored (all)")
    command.add_argument("--on-bad", choices=("stop", "skip"), default="stop")
    command.add_argument("--batch-size", type=int, default=8)
    command.add_argument("--rouge", type=int, default=0, help="prompts that both models answer greedily (0)")
    command.add_argument("--max-new-tokens", type=int, default=128)
    command.add_argument("--json", metavar="FILE", help="write the figures there as well")
    command.set_defaults(command=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from speckd.data import read_examples
    from speckd.evaluation import Scores, facts_of, rouge_of_answers

    scored: dict[str, Scores] = {}
    facts: dict[str, Tensor] = {}
    with progress_bars() as follow:
        for student in options.student or ["healed"]:
            pair = pair_from(options, follow, student)
            examples = read_examples(
                options.data,
                pair.tokenizer,
                max_length=options.max_length,
                on_bad=options.on_bad,
                chat_template_kwargs=template_switches(options.chat_template_kwargs),
                turns=options.turns,
                limit=options.limit,
            )
            facts[student] = facts_of(
                pair,
                examples.examples,
                k=options.k,
                divergence=options.divergence,
                temperature=options.temperature,
                batch_size=options.batch_size,
                on_progress=lambda done, total: follow(Progress("measure", done, total)),
            )
            asked = examples.examples[: options.rouge]
            rouge = rouge_of_answers(pair, asked, options.max_new_tokens, options.batch_size) if asked else None
            scored[student] = Scores.of(facts[student], options.k, options.divergence, rouge)
    columns = ("divergence", "tar", "acceptance", "agreement", "rouge_l", "n_tokens")
    width = max(8, *(len(name) for name in scored))
    print(" ".join([f"{'student':{width}}", *(f"{name:>11}" for name in columns)]))
    for name, scores in scored.items():
        values = [getattr(scores, column) for column in columns]
        cells = [
            "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}" for value in values
        ]
        print(" ".join([f"{name:{width}}", *(f"{cell:>11}" for cell in cells)]))
    told = {name: scores.to_dict() for name, scores in scored.items()}
    first, *others = facts
    if others:
        print(f"\nAbove {first}, on the same examples (95% intervals from resamples of the examples):")
    for name in others:
        told[name]["difference"] = _difference(name, facts[name], facts[first], width)
    if options.json:
        write_whole(Path(options.json), json.dumps(told) + "\n")
    return 0


def _difference(name: str, facts: "Tensor", others: "Tensor", width: int) -> dict[str, Any]:
    """Print one student's differences to the first, and return them."""
    from speckd.evaluation import difference

    found = {}
    for label, column in (("divergence", "divergence"), ("tar", "accepted"), ("acceptance", "acceptance")):
        mean, low, high = difference(facts, others, column)
        found[label] = {"mean": mean, "low": low, "high": high}
    cells = (f"{label} {one['mean']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})" for label, one in found.items())
    print(" ".join([f"{name:{width}}", "  ".join(cells)]))
    return found
