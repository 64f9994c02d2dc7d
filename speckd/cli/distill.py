"""``python -m speckd distill``: options in, settings out. The work is in ``runs/distill.py``.

The trainer's libraries take seconds to import: the command brings them in when it runs, so that --help is quick.
"""

import argparse
import sys
from dataclasses import Field, fields
from typing import Any

from speckd.cli.config_file import read_config
from speckd.cli.terminal import INTERRUPTED, progress_bars
from speckd.data_files import check_source
from speckd.gates import DEFAULT_BETA, DEFAULT_K, gate_from_text
from speckd.jobs import Stopped
from speckd.runs.settings import GROUPS, DistillSettings

DEFAULT_GATES = ",".join(DistillSettings.gates)  # a dataclass keeps its defaults as attributes of the class


def register(commands: Any) -> None:
    command = commands.add_parser(
        "distill",
        help="train a student with the gate",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a student by token-gated distillation, and write the student, its log and its report.\n\n"
        "DATA is a file (JSONL, JSON, CSV, Parquet), a folder of them, or the id of a data set on the Hub. A row is\n"
        '{"prompt": ..., "response": ...}, {"messages": [...]}, ShareGPT\'s or Alpaca\'s; prompts alone where the\n'
        "teacher or the student writes the responses.",
        epilog="examples:\n"
        "  python -m speckd distill answers.jsonl --output runs/first --steps 40\n"
        "  python -m speckd distill assets/prompts/train.jsonl --responses teacher --output runs/own --student raw \\\n"
        "      --gate none --steps 600 --eval-data heldout.jsonl --eval-every 100 --save-every 50\n"
        "  python -m speckd distill answers.jsonl --output runs/race --compare none,topk,speck \\\n"
        "      --eval-data heldout.jsonl\n"
        "  python -m speckd distill answers.jsonl --output runs/first --steps 40 --resume\n"
        "  python -m speckd distill --config run.yaml --steps 80\n"
        "  python -m speckd distill answers.jsonl,more.jsonl --draft eagle --output runs/draft --epochs 4 \\\n"
        "      --eval-data heldout.jsonl\n"
        "  accelerate launch --multi_gpu --num_processes 2 -m speckd distill answers.jsonl --output runs/two\n"
        "      (also on a CPU: --multi_gpu means torchrun, while accelerate's --cpu means MPI)",
    )
    command.add_argument("data", metavar="DATA", nargs="?", help="prompts and responses, or prompts")
    command.add_argument(
        "--config",
        metavar="FILE",
        help="a YAML file with any of these options by name, DATA too; the command line wins",
    )
    command.add_argument(
        "--draft",
        metavar="NAME",
        help="train a draft for speculative decoding instead of a student: eagle, or with settings "
        "eagle:vocab=8192:depth=5:inner=1536; DATA may be several files with commas, and --divergence acceptance too; "
        "or exits:layers=4+8, side branches of the teacher",
    )
    command.add_argument("--output", metavar="FOLDER", help="the run's folder; needed, here or in the file")
    command.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same command")
    command.add_argument("--stop-file", metavar="FILE", help="end after the step at hand when this file appears")

    for group in GROUPS:
        options = command.add_argument_group(group)
        for item in fields(DistillSettings):
            if item.metadata.get("group") == group:
                _add_option(options, item)
    command.set_defaults(command=_distill, configure=lambda file: command.set_defaults(**read_config(file, command)))


def _add_option(options: Any, item: Field[Any]) -> None:
    """The option of one setting: its name, default, choices and words are the field's."""
    name, says = "--" + item.name.replace("_", "-"), item.metadata["says"]
    default: Any = item.default
    if item.name == "gates":
        options.add_argument("--gate", help=f"{says} ({','.join(default)}; none for a draft)")
        options.add_argument("--compare", metavar="GATES", help="several gates, with commas: all from one start")
        options.add_argument("--k", type=int, help=f"of the gates that have one ({DEFAULT_K})")
        options.add_argument("--beta", type=float, help=f"weight of a rejected token ({DEFAULT_BETA:g} for the gates)")
    elif default is True:
        options.add_argument(f"--no-{name[2:]}", dest=item.name, action="store_false", help=says)
    elif default is False:
        options.add_argument(name, action="store_true", help=says)
    elif isinstance(default, tuple):
        options.add_argument(name, default=",".join(default), help=says)
    else:
        shown = "" if default is None else f" ({default})"
        kind = item.metadata["kind"] or (str if default is None else type(default))
        metavar = "FILE" if item.name.endswith("data") else "FOLDER" if item.name.endswith("folder") else None
        choices = item.metadata["choices"]
        options.add_argument(name, default=default, type=kind, choices=choices, metavar=metavar, help=says + shown)


def _gates_of(options: argparse.Namespace) -> tuple[str, ...]:
    """The gates that were named, with --k and --beta given to those that have them."""
    named = [text.strip() for text in (options.compare or options.gate or DEFAULT_GATES).split(",") if text.strip()]
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
    given["report_to"] = tuple(name for name in options.report_to.split(",") if name)
    return DistillSettings(**given)


def _exits(options: argparse.Namespace) -> int:
    """Train side branches of the teacher's exits."""
    from speckd.training.exits import ExitSettings, distill_exits, parse_exits

    shared = {item.name for item in fields(ExitSettings)} & set(vars(options))
    asked = {name: value for name in shared if (value := getattr(options, name)) is not None}
    asked = {name: value for name, value in asked.items() if (name, value) != ("steps", 0)}
    settings = ExitSettings(**(asked | parse_exits(options.draft)))
    with progress_bars() as follow:
        facts = distill_exits(settings, on_progress=follow)
    for layer, figures in (facts["held_out"] or {}).items():
        if layer != "rows":
            print(f"Held out, exit after layer {layer}: agreement {figures['agreement']:.3f}")
    print(f"{settings.steps:,} steps, {facts['seconds']:,.0f} s in all. The branches are in {settings.output}")
    return 0


def _draft(options: argparse.Namespace) -> int:
    """Train the draft that ``--draft`` names."""
    if options.draft.partition(":")[0] == "exits":
        return _exits(options)
    from speckd.training.draft import distill_draft
    from speckd.training.draft_figures import in_words
    from speckd.training.draft_settings import DraftSettings, parse_draft

    shared = {item.name for item in fields(DraftSettings)} & set(vars(options))
    asked = {name: getattr(options, name) for name in shared if getattr(options, name) is not None}
    given = asked | parse_draft(options.draft)
    given |= {"gate": options.gate or "none", "keep_features": options.teacher_cache}
    settings = DraftSettings(**given)
    try:
        with progress_bars() as follow:
            facts, figures = distill_draft(
                settings, resume=options.resume, stop_file=options.stop_file, on_progress=follow
            )
    except Stopped as stopped:
        print(f"{stopped} The same command with --resume goes on.", file=sys.stderr)
        return INTERRUPTED
    if figures is not None:
        print(f"Held out, by place in the chain: {in_words(figures)}")
    print(f"{facts['n_steps']:,} steps in {facts['seconds']:,.0f} s. The draft is in {settings.output}/draft")
    return 0


def _distill(options: argparse.Namespace) -> int:
    for name in ("data", "output"):
        if not getattr(options, name):
            raise ValueError(
                f"{name.upper() if name == 'data' else '--output'} is missing: say it here or in --config."
            )
    if options.draft:
        return _draft(options)
    from speckd.runs.distill import distill, is_main_process
    from speckd.runs.telling import seed_spread, verdict

    settings = settings_from(options)
    check_source(settings.data)  # before any model is loaded
    if settings.eval_data is not None:
        check_source(settings.eval_data)
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
        facts = records[0].settings
        whose = (
            "the default of a student that trains in full" if settings.full and options.learning_rate is None else ""
        )
        print(f"Trained on {facts['data']}. Highest learning rate {facts['learning_rate']:g}{whose and f', {whose}'}.")
        print(verdict(records, seed_spread(settings)))
        print(f"Student, log and report are in {settings.output}")
    return 0
