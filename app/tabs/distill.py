"""Distill: a short training that a visitor starts, watches and takes home. The work is in app/training.py."""

import logging
from collections.abc import Iterator
from typing import Any

import gradio as gr

from app.checks import field_of
from app.panels import Distiller
from app.recorded import recorded_runs
from app.requests import DEFAULTS, GATES, RESPONSES, TrainingRequest
from app.sessions import LONGEST_ID
from app.settings import Settings
from app.tabs.asking import on_run, served
from app.training import Trainings, Update
from speckd.files import as_json
from speckd.gates import TITLES

log = logging.getLogger(__name__)

STUDENTS = {
    "young": "young: it speaks a little, and visibly learns",
    "half-way": "half-way: it speaks, with many errors",
    "healed": "healed: it already speaks",
    "gated": "gated: healed, and further gated",
    "raw": "raw: six layers, not healed at all",
}


def as_value(run: str, update: Update) -> dict[str, Any]:
    """An update as the panel takes it. Events travel as JSON text: gradio would wrap every number of a dictionary."""
    return {
        "run": run,
        "state": update.state,
        "text": update.text,
        "share": update.share,
        "seconds_left": update.seconds_left,
        "from": update.first,
        "events": as_json(list(update.events)),
        "field": field_of(update.text) if update.state == "failed" else None,
    }


def build(page: gr.Blocks, trainings: Trainings, settings: Settings) -> None:
    """Put the tab into the page that is being built."""
    # Long: a tab is one closure over what its functions share; each of them is short.
    recorded = {run.name: run for run in recorded_runs()}

    def train(event: gr.EventData, request: gr.Request) -> Iterator[dict[str, Any]]:
        """A training asked for by the page, told as it goes."""
        data = event._data if isinstance(event._data, dict) else {}
        run = str(data.get("run", ""))[:LONGEST_ID]
        try:
            asked = TrainingRequest.read(data.get("request") or {}, settings)
        except ValueError as error:
            yield as_value(run, Update("failed", str(error)))
            return
        for update in trainings.run(asked, run, request.session_hash or ""):
            yield as_value(run, update)

    # Called from the page's script. They pass by the queue, so Stop is heard while a run is under way.

    def stop(run: Any) -> bool:
        return trainings.stop(str(run)[:LONGEST_ID])

    def events_from(asked: Any) -> dict[str, Any]:
        try:
            first = int(asked["from"])
            return {"events": as_json(trainings.events(str(asked["run"])[:LONGEST_ID], first)), "from": first}
        except (KeyError, TypeError, ValueError):
            return {"events": "[]", "from": 0}

    def recorded_run(name: Any) -> dict[str, Any]:
        run = recorded.get(str(name))
        if run is None:
            return {"error": "There is no such recorded run."}
        return {"label": run.label, "events": as_json(run.events)}

    def status(_: Any = None) -> dict[str, Any]:
        return trainings.status()

    def keep(asked: Any) -> dict[str, Any]:
        try:
            racer = asked.get("racer")
            name = str(asked["run"])[:LONGEST_ID]
            return {"text": trainings.keep(name, racer if isinstance(racer, int) else None, str(asked["kind"]))}
        except (KeyError, TypeError, AttributeError):
            return {"error": "This is not something that can be kept."}
        except ValueError as error:
            return {"error": str(error)}

    first = next(iter(recorded.values()), None)
    panel = Distiller(
        {"recorded": {"label": first.label, "events": as_json(first.events)}} if first else {},
        options={
            "limits": {
                "steps": settings.max_training_steps,
                "batch": settings.max_training_batch,
                "rank": settings.max_lora_rank,
                "bytes": settings.max_data_bytes,
            },
            "students": STUDENTS,
            "gates": [{"value": name, "label": TITLES[name]} for name in GATES],
            "responses": list(RESPONSES),
            "recorded": [{"name": run.name, "label": run.label} for run in recorded.values()],
            "defaults": DEFAULTS,
            "own_models": settings.own_models,
        },
        server_functions=served(stop=stop, log=events_from, recorded=recorded_run, status=status, keep=keep),
        elem_id="distiller",
    )

    def distill(
        student: str = "young",
        gates: str = "topk:k=5:beta=0.01,none",
        data: str = "shipped",
        text: str = "",
        responses: str = "file",
        steps: int = 30,
        batch_size: int = 4,
        learning_rate: float = 0.001,
        lora_rank: int = 64,
        seed: int = 0,
        teacher: str = "packaged",
        request: gr.Request = None,  # type: ignore[assignment] # gradio fills it in by its place
    ) -> Iterator[dict[str, Any]]:
        """Train a student for a few steps, and get the rows that the page's charts show, as they come.

        Each answer is {"state", "text", "events"}: events since the last one, in the form of a recorded run.

        Args:
            student: who is trained: "young", "half-way", "healed", "gated" or "raw" of the packaged pair, or a listed
                name.
            gates: one or two rules with a comma between, such as "topk:k=5:beta=0.01,none"; two race side by side.
            data: "shipped" for the prompts that come with the page, "text" for those in the argument of that name.
            text: prompts, one a line, or JSON lines with "prompt" and "response".
            responses: where answers to the prompts come from: "file", "teacher" or "student".
            steps: how many steps each racer takes.
            batch_size: texts in a step.
            learning_rate: the largest step size; it rises at first and falls towards the end.
            lora_rank: the rank of the adapter that is trained.
            seed: names the order of the texts and every draw.
            teacher: "packaged", or a listed name.
        """
        import secrets

        try:
            asked = TrainingRequest.read(
                {
                    "student": student, "teacher": teacher, "data": data, "text": text, "responses": responses,
                    "gates": [gate for gate in str(gates).split(",") if gate], "steps": steps,
                    "batch_size": batch_size, "learning_rate": learning_rate, "lora_rank": lora_rank, "seed": seed,
                },
                settings,
            )  # fmt: skip
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        for update in trainings.run(asked, secrets.token_urlsafe(16), request.session_hash or ""):
            if update.state == "failed":
                raise gr.Error(update.text, print_exception=False)
            yield {"state": update.state, "text": update.text, "events": list(update.events)}

    on_run(panel, train, limit=settings.max_waiting)
    gr.api(distill, api_name="distill", concurrency_limit=settings.max_waiting)

    def leave(request: gr.Request) -> None:
        trainings.leave(request.session_hash or "")

    page.unload(leave)
