"""A study's plan: factors, their values, and the runs that follow from them. A TOML file:

    title = "Does the gate help?"

    [figures]                       # what is measured of each trained student
    data = "assets/responses/dev.jsonl"
    examples = 60                   # prompts with given answers
    own = 24                        # prompts that the student answers itself
    longest = 64                    # tokens of such an answer
    panel = 4                       # training answers for bite and shadow panel

    [settings]                      # of every run: the fields of DistillSettings
    steps = 60
    batch_size = 4

    [texts.sampled]                 # what a value of the factor "text" stands for: settings again (see texts.py)
    data = "assets/study/texts/sampled.jsonl"

    [[part]]
    name = "gates"
    seeds = [0, 1, 2]
    settings = { learning_rate = 1e-3 }
    factors = { gate = ["none", "topk:k=5"], student = ["raw", "young"] }

    [[question]]                    # what the runs are to answer (see statistics.py)
    name = "acceptance at equal steps"
    figure = "acceptance"
    part = "gates"
    arm = "topk:k=5"

Each part is the grid of its factors times its seeds; arms of one seed are paired: same start, same batches, same coins.
A run that two parts ask for is one run. All parts' first seeds come first, then all second ones, so that an interrupted
study is balanced.
"""

import hashlib
import itertools
import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from speckd.runs.settings import DistillSettings
from speckd.runs.statistics import Question
from speckd.runs.texts import settings_of

# Settings of a run that neither a plan may name nor a cell's name depends on.
_OWN = ("output", "cache_folder", "device", "dtype", "teacher_cache", "name", "report_to")


@dataclass(frozen=True)
class FigureSettings:
    """What is measured of each trained student.

    Attributes:
        data: prompts with given answers, which are never trained on. examples: so many of them.
        own: the student itself answers so many of the prompts. longest: tokens of such an answer.
        tasks: whether it does the small tasks.
        panel: training answers on which bite and shadow panel are measured; 0 none.
        curve: held-out answers of the curve that is drawn while it trains.
    """

    data: str = "assets/responses/dev.jsonl"
    examples: int = 60
    own: int = 24
    longest: int = 64
    tasks: bool = True
    panel: int = 4
    curve: int = 24


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        name: a checksum of everything that decides the run and its figures; its folder's name.
        study: the plan's name. parts: which of its parts ask for the run.
        text: what the student is trained on, by the plan's word for it.
        settings: of ``distill``; output, device and cache are the machine's and are set when it runs.
        figures: what is measured.
        keep: whether the trained student is kept.
    """

    name: str
    study: str
    parts: tuple[str, ...]
    text: str
    settings: dict[str, Any]
    figures: FigureSettings
    keep: bool = False

    def distill_settings(self, **machine: Any) -> DistillSettings:
        """The settings of the run, with what belongs to the machine."""
        return DistillSettings(**(self.settings | {"gates": tuple(self.settings["gates"])} | machine))


@dataclass(frozen=True)
class Plan:
    """A plan as it was read: its name (the file's), title, and cells in the order in which they are run."""

    name: str
    title: str
    cells: list[Cell]
    texts: dict[str, dict[str, Any]] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)


def read_plan(path: str | Path) -> Plan:
    """Read a plan.

    Raises:
        ValueError: the file cannot be read, or names a part, factor, text or setting that makes no sense.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"The plan {str(path)!r} cannot be read ({error.strerror}): give a TOML file.") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"The plan {str(path)!r} is not TOML: {error}.") from None
    try:
        return _plan(path.stem, data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The plan {str(path)!r}: {error}") from None


def _plan(name: str, data: dict[str, Any]) -> Plan:
    _known(data, ("title", "figures", "settings", "texts", "part", "question"), "of the plan")
    figures_known = [item.name for item in fields(FigureSettings)]
    _known(data.get("figures", {}), figures_known, "of [figures]")
    texts = data.get("texts", {})
    if not data.get("part"):
        raise ValueError("it has no [[part]]: name at least one, with seeds and factors.")
    cells: dict[str, Cell] = {}
    for cell in _in_rounds([_cells(name, part, data, texts) for part in data["part"]]):
        known = cells.setdefault(cell.name, cell)
        if cell.parts[0] not in known.parts:
            parts = (*known.parts, *cell.parts)
            cells[cell.name] = replace(known, parts=parts, keep=known.keep or cell.keep)
    questions = [_question(asked, data) for asked in data.get("question", [])]
    return Plan(name, str(data.get("title", name)), list(cells.values()), texts, questions)


def _question(asked: dict[str, Any], data: dict[str, Any]) -> Question:
    _known(asked, [item.name for item in fields(Question)], "of a [[question]]")
    question = Question(**asked)
    parts = [part.get("name") for part in data["part"]]
    for part in (question.part, *([question.less] if question.less else [])):
        if part not in parts:
            raise ValueError(f"the question {question.name!r} asks about the part {part!r}, which the plan has not.")
    return question


def _in_rounds(parts: Sequence[list[list[Cell]]]) -> Iterator[Cell]:
    """The cells of each part's first seed, then of each part's second, and so on."""
    for number in range(max((len(part) for part in parts), default=0)):
        for part in parts:
            yield from part[number] if number < len(part) else []


def _cells(study: str, part: dict[str, Any], data: dict[str, Any], texts: dict[str, Any]) -> list[list[Cell]]:
    """A part's cells, a list for each of its seeds."""
    _known(part, ("name", "question", "seeds", "settings", "factors", "figures", "keep"), "of a [[part]]")
    if not isinstance(part.get("name"), str):
        raise ValueError("a [[part]] has no name.")
    figures = FigureSettings(**(data.get("figures", {}) | part.get("figures", {})))
    shared = data.get("settings", {}) | part.get("settings", {})
    factors = {name: values if isinstance(values, list) else [values] for name, values in part["factors"].items()}
    found: list[list[Cell]] = []
    for seed in part.get("seeds", [0]):
        found.append([])
        for values in itertools.product(*factors.values()):
            asked = shared | dict(zip(factors, values, strict=True)) | {"seed": seed}
            found[-1].append(_cell(study, part, asked, texts, figures))
    return found


def _cell(
    study: str, part: dict[str, Any], asked: dict[str, Any], texts: dict[str, Any], figures: FigureSettings
) -> Cell:
    text = str(asked.pop("text", "file"))
    if text != "file":
        if text not in texts:
            raise ValueError(f"the text {text!r} is not described: add [texts.{text}].")
        asked |= settings_of(texts[text])
    if "gate" in asked:
        asked["gates"] = [asked.pop("gate")]
    _known(asked, [item.name for item in fields(DistillSettings) if item.name not in _OWN], "of a run")
    asked.setdefault("gates", ["topk"])
    asked |= {"eval_data": figures.data, "eval_limit": figures.curve}
    DistillSettings(**(asked | {"output": "", "gates": tuple(asked["gates"])}))  # mistakes now, not in an hour
    key = json.dumps([asked, vars(figures)], sort_keys=True)
    name = hashlib.sha256(key.encode()).hexdigest()[:12]
    return Cell(name, study, (part["name"],), text, asked, figures, bool(part.get("keep", False)))


def _known(given: dict[str, Any], known: Sequence[str], where: str) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{unknown[0]!r} is no setting {where}; known are: {', '.join(known)}.")
