"""Fields and claims of the shipped study: what its table says of an arm, in the part of its plan that is named.

``part`` is the plan's own word, ``arm`` and ``against`` are gates as a run names them. Everything is computed when the
lesson is filled, from the cells that the Map shows.
"""

from typing import Any

from app.lessons.scene import Scene, a_field
from app.lessons.values import Unmet, Value, count, measured, nats, number, share, word
from app.study import SCREENING, Study, study
from speckd.runs.statistics import FEWEST, HIGHER_IS_BETTER, LEVEL
from speckd.words import STUDY_FIGURES

TOPK = "topk:k=5:beta=0.01"
PLAIN = "none"


def _study() -> Study:
    try:
        return study()
    except ValueError as error:
        raise OSError(str(error)) from None  # the step says that its recording is not here


def _cell(figure: str, part: str, arm: str, against: str) -> dict[str, Any]:
    """The comparison with the most seeds, where several settings of a part have it; of a screening only at last.

    Raises:
        Unmet: it has not been run.
    """
    found = [cell for cell in _study().cells(against)
             if cell["figure"] == figure and cell["gate"] == arm and part in cell["parts"]]  # fmt: skip
    if not found:
        raise Unmet(f"the study has no {arm} against {against} in {part}")
    return max(found, key=lambda cell: (cell["study"] != SCREENING, cell["n"]))


def _amount(figure: str, value: float, change: bool) -> Value:
    kind = STUDY_FIGURES[figure]["kind"]
    if kind == "share":
        return number(value, "points", signed=True, unit=True) if change else share(value)
    if kind == "nats":
        return nats(value, signed=change)
    return number(value, "score", signed=True) if change else measured(value)


@a_field
def study_change(_: Scene, figure: str, part: str = "core", arm: str = TOPK, against: str = PLAIN) -> Value:
    """The mean difference of an arm to another, over paired seeds."""
    return _amount(figure, _cell(figure, part, arm, against)["mean"], True)


@a_field
def study_low(_: Scene, figure: str, part: str = "core", arm: str = TOPK, against: str = PLAIN) -> Value:
    """The lower end of its 95% interval."""
    return _amount(figure, _cell(figure, part, arm, against)["low"], True)


@a_field
def study_high(_: Scene, figure: str, part: str = "core", arm: str = TOPK, against: str = PLAIN) -> Value:
    return _amount(figure, _cell(figure, part, arm, against)["high"], True)


@a_field
def study_visible(_: Scene, figure: str, part: str = "core", arm: str = TOPK, against: str = PLAIN) -> Value:
    """The smallest true difference that so many seeds show with 80% power."""
    visible = _cell(figure, part, arm, against)["visible"]
    if STUDY_FIGURES[figure]["kind"] == "share":
        return number(visible, "points", unit=True)
    return _amount(figure, visible, False)


@a_field
def study_mean(_: Scene, figure: str, part: str = "core", arm: str = TOPK) -> Value:
    """An arm's own mean of a figure, in the runs that answer: a screening may have a part of the same name."""
    rows = [row for row in _study().rows
            if row["study"] != SCREENING and row["gate"] == arm and part in str(row["part"]).split("+")]  # fmt: skip
    values = [float(row[figure]) for row in rows if row.get(figure) is not None]
    return _amount(figure, sum(values) / len(values) if values else float("nan"), False)


@a_field
def study_seeds(_: Scene, part: str = "core", arm: str = TOPK, against: str = PLAIN) -> Value:
    return count(_cell("divergence", part, arm, against)["n"])


@a_field
def study_says(s: Scene, figure: str, part: str = "core", arm: str = TOPK, against: str = PLAIN) -> Value:
    """The map's verdict in a word or three."""
    return word(s.name(f"verdict.{_cell(figure, part, arm, against)['verdict']}"))


@a_field
def study_runs(_: Scene) -> Value:
    return count(len({row["cell"] for row in _study().rows}))


@a_field
def study_cells(_: Scene) -> Value:
    """How many cells one correction is made over: those of the runs that answer, since a screening has its own."""
    return count(sum(cell["study"] != SCREENING for cell in _study().cells()))


@a_field
def masked(_: Scene, student: str = "young", table: str = "", name: str = "") -> Value:
    """The share that Top-k rejects of the held-out answers, or of one class of their tokens (a dash for a blank)."""
    found = _study().masks().get(student)
    if found is None:
        raise OSError(f"masks-{student}.json is not there")
    if not table:
        return share(found["rejected"])
    return share(next(one["rejected"] for one in found[table] if one["name"] == name.replace("-", " ")))


# A lesson speaks of single comparisons that were chosen beforehand, so each claim stands on its own interval; the map's
# dots, which say what may be found by looking at all cells, are corrected for that.
def _holds(wanted: str) -> Any:
    def holds(s: Scene, _: Any) -> bool:
        asked = {"part": "core", "arm": TOPK, "against": PLAIN} | s.settings
        found = _cell(*(str(asked[name]) for name in ("figure", "part", "arm", "against")))
        if found["n"] < FEWEST:
            return False
        if not found["p"] < LEVEL:
            return wanted == "unseen"
        good = (found["mean"] > 0) == HIGHER_IS_BETTER[found["figure"]]
        return wanted == ("helps" if good else "hurts")

    return holds


VERDICTS = {name: _holds(name) for name in ("helps", "hurts", "unseen")}
