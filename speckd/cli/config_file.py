"""``--config FILE``: a command's options in a YAML file, by their names."""

import argparse
import difflib
import json
from pathlib import Path
from typing import Any

NEVER = ("config", "help", "command", "configure")


def read_config(file: str, command: argparse.ArgumentParser) -> dict[str, Any]:
    """What a YAML file says, as defaults of a command's options; what the command line says stands above it.

    A name is written as the option is, without dashes before it: ``batch-size`` or ``batch_size``. Lists stand where
    options take names with commas, mappings where they take JSON. A run's own settings.json is such a file too.

    Args:
        file: its path.
        command: the parser of the command whose options it names.
    Raises:
        ValueError: it cannot be read, or names what is no option; the message says which.
    """
    import yaml

    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"There is no file {file!r}: --config takes a YAML file with options by name.")
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(said, dict):
        raise ValueError(f"{file} is no list of options: write a line for each, such as 'steps: 40'.")
    known = {action.dest: action for action in command._actions if action.dest not in NEVER}
    found: dict[str, Any] = {}
    for key, value in said.items():
        name = str(key).replace("-", "_")
        if name in ("gates", "compare"):  # as settings.json writes them; --gate takes several too, and may stand above
            name = "gate"
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{file}: {key!r} is no option of this command.{hint}")
        if value is not None:
            found[name] = _as_default(file, str(key), known[name], value)
    return found


def _as_default(file: str, key: str, action: argparse.Action, value: Any) -> Any:
    """A value as argparse takes it: true or false for a switch, else the text that a shell would give it."""
    if action.nargs == 0:  # a switch
        if not isinstance(value, bool):
            raise ValueError(f"{file}: {key} is {value!r}: write true or false.")
        return value
    if isinstance(value, bool):
        raise ValueError(f"{file}: {key} is {value!r}, and takes a value of its own.")
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, list):
        return ",".join(str(one) for one in value)
    text = str(value)
    if action.type is not None:
        try:
            action.type(text)  # type: ignore[operator]
        except (TypeError, ValueError):
            raise ValueError(f"{file}: {key} is {value!r}: a number is needed.") from None
    if action.choices is not None and text not in action.choices:
        raise ValueError(f"{file}: {key} is {value!r}: choose one of {', '.join(map(str, action.choices))}.")
    return text
