"""``python -m speckd prepare``: convert the packaged teacher once."""

import argparse

from speckd.cli.terminal import progress_bars
from speckd.packaged import packaged_teacher


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "prepare",
        help="convert the packaged teacher once",
        description="Convert the packaged teacher into the cache folder (SPECKD_CACHE, else ~/.cache/speckd). It takes "
        "about half a minute once; everything else does it by itself when it is needed.",
    )
    command.set_defaults(command=_prepare)


def _prepare(_: argparse.Namespace) -> int:
    with progress_bars() as follow:
        folder = packaged_teacher(follow)
    print(f"The packaged teacher is ready in {folder}")
    return 0
