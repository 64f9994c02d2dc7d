"""The command line: ``python -m speckd COMMAND``.

A person's mistake is one line on standard error and exit code 2. Results go to standard output, progress to standard
error, files are complete or absent.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from speckd.cli import decode, distill, evaluate, inspect, prepare, study, teach
from speckd.cli.terminal import INTERRUPTED, USER_ERROR, printable, say

PROGRAM = "python -m speckd"
COMMANDS = (
    prepare,
    inspect,
    decode,
    distill,
    evaluate,
    study,
    teach,
)  # each has register(subparsers); heavy imports wait until it runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what stands after the program's name; the shell's by default.
    Returns:
        The exit code: 0, 2 for a person's mistake or a model out of reach, 130 when interrupted.
    """
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        if getattr(options, "config", None):
            options.configure(options.config)  # the file's values become defaults, and the command line is read again
            options = parser.parse_args(arguments)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except KeyboardInterrupt:
        print("\nStopped; nothing half-written is left.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        return 0
    except (ValueError, OSError) as error:
        print(f"speckd: {printable(say(error))}", file=sys.stderr)
        return USER_ERROR


def make_parser() -> argparse.ArgumentParser:
    """The parser of every command; ``--help`` teaches."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Token-gated knowledge distillation: the student proposes, the teacher verifies.",
        epilog="Each command explains itself: python -m speckd inspect --help",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands)
    return parser
