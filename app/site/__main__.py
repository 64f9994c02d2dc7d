"""`python -m app.site FOLDER`: the page without a server."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from app.site import plotly
from app.site.build import CannotBuild, build, first_load


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m app.site", description="Write the page without a server.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--space", default="", help="owner/name of the Space that has the models")
    parser.add_argument("--repository", default="", help="the address that the project is cloned from")
    parser.add_argument("--plotly", default="", help='a file with Plotly, or "whole" for that of the plotly package')
    asked = parser.parse_args(arguments)
    try:
        sizes = build(asked.folder, space=asked.space, repository=asked.repository, plotly_source=asked.plotly)
    except (CannotBuild, plotly.CannotFetch, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    first = first_load(asked.folder)
    print(
        f"{asked.folder}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB; a first visit loads "
        f"{first / 1e6:.2f} MB compressed. Look at it: python -m http.server --directory {asked.folder}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
