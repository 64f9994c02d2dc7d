"""``python -m speckd inspect``: the gate on one text, in a terminal."""

import argparse
import json
import shutil
import sys
import textwrap
from pathlib import Path

from speckd.cli.options import add_gate_options, add_pair_options, gate_from, pair_from
from speckd.cli.terminal import progress_bars, strip, summary, table
from speckd.conversations import template_switches
from speckd.data_files import check_source
from speckd.divergences import divergence_named
from speckd.files import write_whole
from speckd.gates import Gate
from speckd.inspection import SOURCES, check_request, inspect


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "inspect",
        help="see the gate on one text",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=textwrap.dedent(
            """\
            See the gate on one text: what the student proposed at each token, what the teacher thought of it, and what
            the distillation loss would have ignored.

            Rejected tokens stand in brackets, with the gate's threshold after a bar: [dance|59] was the response's
            token where the student's proposal has rank 59 in the teacher's order, so Top-k accepts it from k = 59 on.
            """
        ),
        epilog=textwrap.dedent(
            """\
            examples:
              python -m speckd inspect "Why is the sky blue?"
              python -m speckd inspect "Why is the sky blue?" --student young --gate speck --k 2
              python -m speckd inspect "Why is the sky blue?" --response "Because air scatters blue light." --table
              python -m speckd inspect "Tell me a story." --sample --seed 7 --html story.html --csv story.csv
              python -m speckd inspect --data answers.jsonl --student young --k 3
            """
        ),
    )
    command.set_defaults(command=_inspect)
    command.add_argument("prompt", metavar="QUESTION", nargs="?", help="what to ask")
    command.add_argument("--data", metavar="FILE", help="instead of a question: a file of prompts with answers")
    command.add_argument("--limit", type=int, metavar="N", help="of --data: at most so many")
    add_pair_options(command)
    text = command.add_argument_group("the response")
    text.add_argument("--source", choices=SOURCES[:2], default=None, help="who writes it (default: teacher)")
    text.add_argument("--response", metavar="TEXT", help="a given response instead of a written one")
    text.add_argument("--sample", action="store_true", help="draw it at the temperature instead of greedily")
    text.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="its longest length (default: 64)")
    text.add_argument("--temperature", type=float, default=1.0, metavar="TAU", help="above 0 (default: 1)")
    text.add_argument("--seed", type=int, default=0, help="names the sample, the draws and the coins (default: 0)")
    text.add_argument("--chat-template-kwargs", default="", metavar="JSON", help="switches of the chat template")
    add_gate_options(command)
    output = command.add_argument_group("output")
    output.add_argument("--table", action="store_true", help="also print one line a token")
    output.add_argument("--json", metavar="FILE", help="write the whole trace as JSON")
    output.add_argument("--csv", metavar="FILE", help="write the whole trace as a table, one row a token")
    output.add_argument("--html", metavar="FILE", help="write one self-contained page in which the gate is alive")
    output.add_argument("--color", choices=("auto", "always", "never"), default="auto", help=argparse.SUPPRESS)


def _inspect(options: argparse.Namespace) -> int:
    gate = gate_from(options)  # mistakes first: they cost nothing before the models are loaded
    divergence_named(options.divergence)
    if (options.data is None) == (options.prompt is None):
        raise ValueError("Give a question, or --data FILE with prompts and answers: one of the two.")
    if options.data is not None:
        _check_folder(options.json)
        return _inspect_data(options, gate)
    switches = template_switches(options.chat_template_kwargs)
    check_request(
        options.prompt, options.response, options.source, options.max_new_tokens, options.temperature, options.seed
    )
    for file in (options.json, options.csv, options.html):
        _check_folder(file)
    with progress_bars() as follow:
        pair = pair_from(options, follow)
        trace = inspect(
            pair,
            options.prompt,
            response=options.response,
            source=options.source,
            do_sample=options.sample,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            seed=options.seed,
            chat_template_kwargs=switches,
            on_progress=follow,
        )
    colour = options.color == "always" or (options.color == "auto" and sys.stdout.isatty())
    width = shutil.get_terminal_size((100, 24)).columns
    print(strip(trace, gate, width, colour))
    print()
    if options.table:
        print(table(trace, gate, options.divergence))
        print()
    print(summary(trace, gate, options.divergence))
    if options.json:
        trace.to_json(options.json)
    if options.csv:
        trace.to_csv(options.csv)
    if options.html:
        from speckd.html import to_html

        knobs = {"gate": gate.name, "k": options.k, "beta": options.beta, "divergence": options.divergence}
        write_whole(options.html, to_html(trace, knobs=knobs))
    return 0


def _check_folder(file: str | None) -> None:
    """Before the minutes that a file would be lost after."""
    if file and not Path(file).absolute().parent.is_dir():
        raise ValueError(f"{file}: its folder does not exist. Make it first.")


def _inspect_data(options: argparse.Namespace, gate: Gate) -> int:
    """What the gate masks in a file of prompts with answers."""
    from speckd.data import read_examples
    from speckd.runs.masks import in_words, what_is_masked

    check_source(options.data)
    with progress_bars() as follow:
        pair = pair_from(options, follow)
        examples = read_examples(
            options.data,
            pair.tokenizer,
            limit=options.limit,
            chat_template_kwargs=template_switches(options.chat_template_kwargs),
        ).examples
        found = what_is_masked(
            pair, examples, gate, divergence=options.divergence, seed=options.seed, on_progress=follow
        )
    print(in_words(found, gate, options.divergence))
    if options.json:
        write_whole(options.json, json.dumps({"gate": gate.describe(), "student": pair.student_id, **found}) + "\n")
    return 0
