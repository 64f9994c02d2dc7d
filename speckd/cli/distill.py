"""``python -m speckd distill``: options in, settings out. The work is in ``runs/distill.py``."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from speckd.cli.terminal import INTERRUPTED, progress_bars
from speckd.gates import DEFAULT_BETA, DEFAULT_K, GATES, TRAINING_GATES, gate_from_text
from speckd.jobs import Stopped
from speckd.packaged import PACKAGED
from speckd.runs.settings import RESPONSES, DistillSettings

# The trainer's libraries take seconds to import: the command brings them in when it runs, so that --help is quick.
_GATE_WORDS = f"one of {', '.join([*GATES, *TRAINING_GATES])}; settings follow after colons, as in topk:k=3:beta=0"


def register(commands: Any) -> None:
    command = commands.add_parser(
        "distill",
        help="train a student with the gate",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a student by token-gated distillation, and write the student, its log and its report.\n\n"
        'DATA is a JSONL file, one object a line: {"prompt": ..., "response": ...} or {"messages": [...]};\n'
        "prompts alone where the teacher or the student writes the responses.",
        epilog="examples:\n"
        "  python -m speckd distill answers.jsonl --output runs/first --steps 40\n"
        "  python -m speckd distill assets/prompts/train.jsonl --responses teacher --output runs/own --student raw \\\n"
        "      --gate none --steps 600 --eval-data heldout.jsonl --eval-every 100 --save-every 50\n"
        "  python -m speckd distill answers.jsonl --output runs/race --compare none,topk,speck \\\n"
        "      --eval-data heldout.jsonl\n"
        "  python -m speckd distill answers.jsonl --output runs/first --steps 40 --resume\n"
        "  accelerate launch --multi_gpu --num_processes 2 -m speckd distill answers.jsonl --output runs/two\n"
        "      (also on a CPU: --multi_gpu means torchrun, while accelerate's --cpu means MPI)",
    )
    command.add_argument("data", metavar="DATA", help="JSONL file of prompts and responses, or of prompts")
    command.add_argument("--output", required=True, metavar="FOLDER", help="the run's folder")
    command.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same command")
    command.add_argument("--stop-file", metavar="FILE", help="end after the step at hand when this file appears")

    models = command.add_argument_group("models")
    models.add_argument("--teacher", default=PACKAGED, help="'packaged' (default), a Hub id or a folder")
    models.add_argument(
        "--student", default="young", help="'young' (default), 'healed', 'raw', a Hub id, a model's or adapter's folder"
    )
    models.add_argument("--revision", help="commit of a Hub teacher")
    models.add_argument("--student-revision", help="commit of a Hub student")
    models.add_argument("--device", help="cpu or cuda; a GPU where there is one")
    models.add_argument("--dtype", help="float32 or bfloat16; float32 on a CPU")
    models.add_argument("--lora-rank", type=int, default=64, help="of a fresh adapter (64)")
    models.add_argument("--lora-alpha", type=int, help="of a fresh adapter (twice the rank)")
    models.add_argument("--full", action="store_true", help="train every weight, no adapter")

    data = command.add_argument_group("data")
    data.add_argument("--eval-data", metavar="FILE", help="held-out prompts with responses")
    data.add_argument("--eval-limit", type=int, help="at most so many of them")
    data.add_argument("--limit", type=int, help="train on at most so many examples")
    data.add_argument("--on-bad", choices=("stop", "skip"), default="stop", help="what to do at a bad line (stop)")
    data.add_argument("--max-length", type=int, default=1024, help="tokens of prompt and response (1024)")
    data.add_argument(
        "--responses",
        choices=RESPONSES,
        default="file",
        help="who writes the responses: the file (default), the teacher once, the student as it trains, or a mix",
    )
    data.add_argument("--student-share", type=float, default=0.5, help="of a mix: share the student writes (0.5)")
    data.add_argument("--greedy", action="store_true", help="greedy answers of the teacher, not sampled")
    data.add_argument("--response-temperature", type=float, default=0.8, help="of the teacher's answers (0.8)")
    data.add_argument("--top-p", type=float, default=0.95, help="of the teacher's answers (0.95)")
    data.add_argument("--max-new-tokens", type=int, default=128, help="longest answer that a model writes (128)")
    data.add_argument("--response-seed", type=int, default=0, help="of the teacher's answers (0)")
    data.add_argument("--no-teacher-cache", action="store_true", help="run the teacher at every step")
    data.add_argument("--cache-folder", metavar="FOLDER", help="the teacher cache, elsewhere than in the run's folder")

    loss = command.add_argument_group("gate and loss")
    loss.add_argument("--gate", default="topk", help=_GATE_WORDS + " (topk)")
    loss.add_argument("--compare", metavar="GATES", help="several gates, with commas: each trains from the same start")
    loss.add_argument("--k", type=int, help=f"of the gates that have one ({DEFAULT_K})")
    loss.add_argument("--beta", type=float, help=f"weight of a rejected token ({DEFAULT_BETA:g} for the gates)")
    loss.add_argument("--divergence", default="forward_kl", help="forward_kl (default), reverse_kl, jsd, skew_kl, ...")
    loss.add_argument("--reference", default="healed", help="the student that AdaSPEC compares with (healed)")
    loss.add_argument("--temperature", type=float, default=1.0, help="divides both models' logits (1.0)")
    loss.add_argument(
        "--rejected",
        choices=("weight", "sample"),
        default="weight",
        help="weigh a rejected token, or keep some",
    )

    training = command.add_argument_group("training")
    training.add_argument("--steps", type=int, default=0, help="optimizer steps; 0 counts epochs instead")
    training.add_argument("--epochs", type=float, default=1.0, help="passes over the data, without --steps (1)")
    training.add_argument("--batch-size", type=int, default=8, help="examples of a process at once (8)")
    training.add_argument("--accumulate", type=int, default=1, help="batches a step (1)")
    training.add_argument("--learning-rate", type=float, default=3e-3, help="highest (0.003, for LoRA)")
    training.add_argument("--warmup", type=int, default=20, help="steps (20)")
    training.add_argument("--schedule", default="cosine", help="cosine (default), linear, constant_with_warmup, ...")
    training.add_argument("--weight-decay", type=float, default=0.0, help="(0)")
    training.add_argument("--clip", type=float, default=1.0, help="largest gradient norm (1)")
    training.add_argument("--precision", choices=("full", "bf16", "fp16"), default="full", help="of the trunk (full)")
    training.add_argument("--activation-checkpointing", action="store_true", help="less memory, more time")
    training.add_argument("--seed", type=int, default=0, help="(0)")

    writing = command.add_argument_group("what is written")
    writing.add_argument("--eval-every", type=int, default=0, help="steps between evaluations (0: first and last)")
    writing.add_argument("--save-every", type=int, default=0, help="steps between checkpoints; 0 writes none")
    writing.add_argument("--keep-checkpoints", action="store_true", help="keep every checkpoint, also at the end")
    writing.add_argument("--rouge", type=int, default=0, help="held-out prompts answered for ROUGE-L (0)")
    writing.add_argument("--save-dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    writing.add_argument("--report-to", default="", help="loggers of transformers, with commas: tensorboard, wandb")
    writing.add_argument(
        "--probe-every", type=int, default=0, help="steps between looks at one held-out response (0: none)"
    )
    writing.add_argument(
        "--answers", type=int, default=0, help="longest greedy answer to that response's prompt, in tokens (0: none)"
    )
    writing.add_argument("--name", default="student", help="of the student, in its model card")
    command.set_defaults(command=_distill)


def _gates_of(options: argparse.Namespace) -> tuple[str, ...]:
    """The gates that were named, with --k and --beta given to those that have them."""
    named = [text.strip() for text in (options.compare or options.gate).split(",") if text.strip()]
    gates = []
    for text in named:
        known = {item.name for item in fields(type(gate_from_text(text)))}
        for knob in ("k", "beta"):
            value = getattr(options, knob)
            if value is not None and knob in known and f":{knob}=" not in text:
                text += f":{knob}={value}"
        gates.append(text)
    return tuple(gates)


def settings_from(options: argparse.Namespace) -> DistillSettings:
    """The settings that a parsed command line asks for."""
    given = {item.name: getattr(options, item.name) for item in fields(DistillSettings) if hasattr(options, item.name)}
    given["gates"] = _gates_of(options)
    given["teacher_cache"] = not options.no_teacher_cache
    given["report_to"] = tuple(name for name in options.report_to.split(",") if name)
    return DistillSettings(**given)


def _distill(options: argparse.Namespace) -> int:
    from speckd.runs.distill import distill, is_main_process
    from speckd.runs.telling import seed_spread, verdict

    settings = settings_from(options)
    if not Path(settings.data).expanduser().is_file():
        raise ValueError(f"There is no file {settings.data!r}. Give a JSONL file with one example a line.")
    try:
        with progress_bars() as follow:
            records = distill(
                settings,
                resume=options.resume,
                stop_file=options.stop_file,
                on_progress=follow if is_main_process() else None,
                progress_bar=True,
            )
    except Stopped as stopped:
        print(f"{stopped} The same command with --resume goes on.", file=sys.stderr)
        return INTERRUPTED
    if is_main_process():
        print(verdict(records, seed_spread(settings)))
        print(f"Student, log and report are in {settings.output}")
    return 0
