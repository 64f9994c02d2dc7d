"""``python -m speckd teach``: the teacher's likeliest tokens into one file, so that training needs no teacher."""

import argparse
from typing import Any

from speckd.cli.terminal import progress_bars
from speckd.jobs import Progress
from speckd.packaged import PACKAGED


def register(commands: Any) -> None:
    command = commands.add_parser(
        "teach",
        help="keep a teacher's likeliest tokens in a file",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Ask a teacher, here or behind a server, about given answers, and keep its K likeliest tokens at\n"
        "every place in one file, with the probability of all others together. `distill --teacher-file FILE` then\n"
        "trains without the teacher: with the gates topk (k up to K), none and random, at this temperature.",
        epilog="examples:\n"
        "  python -m speckd teach answers.jsonl heldout.jsonl --output answers.teach\n"
        "  python -m speckd distill answers.jsonl --eval-data heldout.jsonl --teacher-file answers.teach --output run\n"
        "  python -m speckd teach answers.jsonl --server http://localhost:8000/v1 --output answers.teach \\\n"
        "      --student Qwen/Qwen2.5-0.5B-Instruct\n"
        "      (the server must allow K log-probabilities: vllm serve MODEL --max-logprobs 64)",
    )
    command.add_argument("data", metavar="DATA", nargs="+", help="files of prompts with responses")
    command.add_argument("--output", required=True, metavar="FILE", help="the file; parts of it are kept in FILE.parts")
    command.add_argument("--teacher", default=PACKAGED, help=f"'packaged', a Hub id or a folder ({PACKAGED})")
    command.add_argument("--revision", help="commit of a Hub teacher")
    command.add_argument("--server", metavar="URL", help="ask a server instead, such as http://localhost:8000/v1")
    command.add_argument("--model", metavar="NAME", help="the teacher's name at that server (its first one)")
    command.add_argument("--student", help="whose tokenizer makes the ids that a server is asked about; needed with it")
    command.add_argument("--kept", type=int, default=64, metavar="K", help="tokens kept at each place (64)")
    command.add_argument(
        "--temperature", type=float, default=1.0, help="divides the teacher's logits; a server has 1 (1.0)"
    )
    command.add_argument("--device", help="cpu or cuda; a GPU where there is one")
    command.add_argument(
        "--max-length", type=int, default=1024, help="tokens of prompt and response, as in training (1024)"
    )
    command.add_argument(
        "--turns", choices=("all", "last"), default="all", help="of a conversation, as in training (all)"
    )
    command.add_argument("--on-bad", choices=("stop", "skip"), default="stop", help="what to do at a bad line (stop)")
    command.add_argument("--batch-size", type=int, default=8, help="texts at once (8)")
    command.set_defaults(command=_teach)


def _teach(options: argparse.Namespace) -> int:
    from speckd.data import read_examples
    from speckd.pairs import fingerprint_of, load_model, load_words
    from speckd.training.teacher_cache import tokenizer_sha256
    from speckd.training.teacher_file import LocalTeacher, write_teacher_file
    from speckd.training.teacher_server import TeacherServer

    source: Any
    if options.server:
        if options.temperature != 1.0:
            raise ValueError(
                "a server tells log-probabilities of temperature 1, and another cannot be had from K tokens."
            )
        if not options.student:
            raise ValueError(
                "a server is asked about token ids: name the student whose tokenizer makes them (--student)."
            )
        tokenizer = load_words(options.student)
        source = TeacherServer(options.server, options.model, tokenizer, n_kept=options.kept)
    else:
        model, tokenizer = load_model(options.teacher, device=options.device, revision=options.revision)
        name, checksum = fingerprint_of(options.teacher, options.revision)
        source = LocalTeacher(model, name, checksum, n_kept=options.kept, temperature=options.temperature)
    examples = []
    for path in options.data:
        read = read_examples(path, tokenizer, max_length=options.max_length, on_bad=options.on_bad, turns=options.turns)
        print(f"{path}: {read.summary()}")
        examples += read.examples
    with progress_bars() as follow:
        file = write_teacher_file(
            options.output,
            source,
            examples,
            tokenizer_sha256(tokenizer),
            batch_size=options.batch_size,
            on_progress=lambda done, total: follow(Progress("teach", done, total, "asking the teacher")),
        )
    size = file.path.stat().st_size
    print(
        f"{file.n_rows:,} tokens of {file.n_examples:,} answers, {size / file.n_rows:.0f} bytes a token "
        f"({size / 1e6:,.1f} MB). "
        f"The {file.n_kept} tokens hold {file.mean_mass:.2%} of the teacher's probability on average, "
        f"{file.least_mass:.2%} at least."
    )
    print(f"Train from it: python -m speckd distill DATA --teacher-file {options.output} --output RUN")
    return 0
