"""The project as a Hugging Face Space: `python -m app.space build FOLDER | upload OWNER/NAME`.

`make space` calls it; `make space-check` rehearses (tests/space_check.py). A Space gets a list of what it needs and
nothing else: no tests, no tools, no packaged teacher (there it comes from the Hub, at a pinned revision).
"""

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = ("README.md", "LICENSE", "NOTICE", "app.py", "requirements.txt")
FOLDERS = {  # folder -> the kinds of files that it gives
    "app": (".py", ".js", ".css", ".json", ".md", ".html", ".svg"),
    "speckd": (".py", ".js", ".ts", ".css", ".html", ".typed"),
    "assets/decode": (".json", ".csv"),
    "assets/pictures": (".png",),
    "assets/prompts": (".jsonl", ".md"),
    "assets/responses": (".jsonl", ".md"),
    "assets/runs": (".json", ".md"),
    "assets/drafts": (".json", ".safetensors", ".md"),
    "assets/students": (".json", ".safetensors", ".md"),
    "assets/study": (".csv", ".json", ".jsonl", ".toml", ".md"),
    "assets/traces": (".json",),
}
LEFT_OUT = (  # what drafts, students and the study were trained on: no page reads it
    "assets/responses/asked.jsonl",
    "assets/responses/self-asked.jsonl",
    "assets/study/texts/",
    "assets/decode/runs/",
)
LARGEST = 10_000_000  # bytes; the Hub takes larger files through LFS or Xet alone, and this project has none
THUMBNAIL = "assets/pictures/card.png"
PORT = 7860  # the only one that a Space opens
TITLE = "SpecKD Lab"


class CannotDeploy(Exception):
    """One sentence that says what to do."""


# --- the folder ---------------------------------------------------------------------------------------------------


def files(root: Path = ROOT) -> list[str]:
    """What a Space needs, as paths below the project's folder.

    Raises:
        CannotDeploy: a file is too large or missing.
    """
    names = list(FILES)
    for folder, kinds in FOLDERS.items():
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            hidden = any(part.startswith((".", "__pycache__")) for part in path.parts[len(root.parts) :])
            if hidden or name.startswith(LEFT_OUT):
                continue
            if path.is_file() and not path.is_symlink() and path.suffix in kinds:
                names.append(name)
    for name in names:
        if not (root / name).is_file():
            raise CannotDeploy(f"{name} is missing: run this from a whole checkout.")
        if (size := (root / name).stat().st_size) > LARGEST:
            raise CannotDeploy(f"{name} has {size / 1e6:.1f} MB: above {LARGEST / 1e6:.0f} MB a file needs Git LFS.")
    return names


def build(folder: Path, space: str = "owner/name", root: Path = ROOT) -> int:
    """Copy what a Space needs into an empty folder; the number of bytes.

    Raises:
        CannotDeploy: the folder is not empty, or the project is not whole.
    """
    if folder.exists() and any(folder.iterdir()):
        raise CannotDeploy(f"{folder} is not empty: name a new folder.")
    for name in files(root):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, folder / name)
    card = folder / "README.md"
    card.write_text(with_thumbnail(card.read_text(encoding="utf-8"), space), encoding="utf-8")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def with_thumbnail(card: str, space: str) -> str:
    """The card with the address of its own picture: it can only be known when the Space has a name."""
    _, front, rest = re.split(r"^---\n", card, maxsplit=2, flags=re.MULTILINE)
    return f"---\n{front}thumbnail: https://huggingface.co/spaces/{space}/resolve/main/{THUMBNAIL}\n---\n{rest}"


# --- uploading ----------------------------------------------------------------------------------------------------


def upload(space: str) -> str:
    """Make the Space's files those of this project; the Space's address.

    Raises:
        CannotDeploy: no token, no such name, no network, no permission, or a Space that holds something else.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    owner, _, name = space.partition("/")
    if not all(re.fullmatch(r"(?!-)[\w.-]{1,96}(?<![-.])", part, re.ASCII) for part in (owner, name)):
        raise CannotDeploy(
            f"{space!r} is not the name of a Space: give it as owner/name (make space SPACE=owner/name)."
        )
    token = get_token()
    if not token:
        raise CannotDeploy("There is no token: run `hf auth login`, or set HF_TOKEN, with a token that may write.")
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "space"
        build(folder, space)
        try:
            api.create_repo(space, repo_type="space", space_sdk="gradio", exist_ok=True)
            there = set(api.list_repo_files(space, repo_type="space")) - {".gitattributes", "README.md"}
            if there and "speckd/__init__.py" not in there:
                raise CannotDeploy(f"The Space {space} holds something else already: choose another name.")
            # what is no longer needed goes: the Space is this project, and nothing beside it
            api.upload_folder(
                repo_id=space,
                repo_type="space",
                folder_path=folder,
                delete_patterns="*",
                commit_message=f"{TITLE} as in its repository",
            )
        except CannotDeploy:
            raise
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else None
            if status in (401, 403):
                raise CannotDeploy(
                    f"The Hub does not let this token write to {space}: make one with write access to it."
                ) from None
            raise CannotDeploy(f"The Hub refused the upload (status {status}): {_first_line(error)}") from None
        except Exception as error:
            # the Hub client's transport (httpx, or httpx2) raises errors of its own
            if not isinstance(error, OSError) and not type(error).__module__.startswith(("httpx", "httpcore")):
                raise
            raise CannotDeploy(f"The Hub cannot be reached ({_first_line(error)}): connect, then try again.") from None
    return f"{api.endpoint}/spaces/{space}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# --- the command --------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m app.space", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    to_build = commands.add_parser("build", help="copy what a Space needs into a folder")
    to_build.add_argument("folder", type=Path)
    to_upload = commands.add_parser("upload", help="make a Space's files those of this project")
    to_upload.add_argument("space", help="owner/name")
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "build":
            print(f"{build(asked.folder) / 1e6:.1f} MB in {asked.folder}")
        else:
            print(f"The Space is at {upload(asked.space)}; it builds now, for some minutes.")
    except CannotDeploy as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
