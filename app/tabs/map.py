"""Map: where the gate helps and where it does not, from the study that ships (app/study.py). It needs no model."""

import logging
from typing import Any

from app.panels import Mapper
from app.requests import GATES, STUDENTS
from app.settings import Settings
from app.study import study
from speckd.files import as_json

log = logging.getLogger(__name__)


def first_picture() -> dict[str, Any]:
    """What the tab opens with: the map against plain, or one sentence that says why there is none."""
    try:
        return {"map": study().map()}
    except ValueError as error:
        log.warning("The study cannot be shown: %s", error)
        return {"error": str(error)}


def build(settings: Settings) -> None:
    """Put the tab into the page that is being built."""

    # Called from the page's script. They pass by the queue: nothing here takes longer than reading a table.

    def cells(control: Any) -> dict[str, Any]:
        try:
            return {"map": study().map(control)}
        except ValueError as error:
            return {"error": str(error)}

    def cell(asked: Any) -> dict[str, Any]:
        try:
            key, control = (asked.get(name) if isinstance(asked, dict) else None for name in ("key", "control"))
            return {"cell": as_json(study().cell(key, control))}
        except ValueError as error:
            return {"error": str(error)}

    def beside(_: Any = None) -> dict[str, Any]:
        try:
            return {"beside": study().beside()}
        except ValueError as error:
            return {"error": str(error)}

    Mapper(
        first_picture(),
        options={
            "race": {
                "gates": list(GATES),
                "students": list(STUDENTS),
                "steps": settings.max_training_steps,
                "batch": settings.max_training_batch,
            },
        },
        server_functions=[cells, cell, beside],
        elem_id="mapper",
    )
