"""A trained student on the Hub: asked for before the training begins, sent when it lies here whole."""

from pathlib import Path
from typing import Any

from speckd.runs.settings import DistillSettings
from speckd.training.card import is_hub_id


def check_hub(settings: DistillSettings) -> None:
    """Refuse what could not be sent after hours of training.

    Raises:
        ValueError: the name is not spelt as the Hub spells them, or nobody is logged in.
    """
    if settings.push_to_hub is None:
        return
    names = [settings.racer(gate).push_to_hub or "" for gate in settings.gates]
    if bad := [name for name in names if name.count("/") != 1 or not is_hub_id(name)]:
        raise ValueError(f"push_to_hub is {bad[0]!r}: write it as OWNER/NAME, and let no folder here be called so.")
    try:
        _hub().whoami()
    except Exception as error:  # the Hub client's transport raises errors of its own
        raise ValueError(
            "push_to_hub: the Hub does not know you, or cannot be reached. Log in with `hf auth login`, or leave "
            "push_to_hub out and send the student's folder later."
        ) from error


def push(folder: Path, name: str, private: bool) -> str:
    """Send a student's folder to the Hub, its card included, and tell its address.

    Raises:
        OSError: it did not arrive; the student lies in its folder all the same.
    """
    try:
        hub = _hub()
        hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=str(folder), commit_message="Student and card, from speckd")
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise OSError(
            f"The student is in {folder}, but did not reach the Hub ({reason}): send it by `hf upload {name} {folder}`."
        ) from error
    return f"https://huggingface.co/{name}"


def _hub() -> Any:
    from huggingface_hub import HfApi

    return HfApi()
