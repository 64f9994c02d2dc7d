"""`python tests/reference.py FILE` (`make dist`) writes the reference: every public name of speckd on one page.

pdoc makes it from the docstrings. Nothing of it is written by hand, so nothing of it can be out of date.
"""

import sys
from pathlib import Path

import pdoc

import speckd


def page() -> str:
    """The page's HTML, which asks for nothing else."""
    for name in speckd.__all__:
        setattr(speckd, name, getattr(speckd, name))  # pdoc looks, and does not ask for what is imported when wanted
    pdoc.render.configure(docformat="google", show_source=False, search=False)
    return pdoc.pdoc("speckd", "!speckd.")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(), encoding="utf-8")
    print(f"Wrote {target}.")
