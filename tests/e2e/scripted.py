"""The page with its Distill tab played by a script: made-up runs, event by event, and no model anywhere.

What a run does is told by the pasted prompts' first word: "gap" leaves updates out (they are in the log alone), "fail"
breaks off, "refuse" never begins, "endless" runs until it is stopped and "deaf" goes on after that. Any other run plays
to its end.
"""

import json
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import app.main
import speckd
from app.panels import Distiller
from app.settings import Settings, settings_for
from tests.app import synthetic

BEAT = 0.02  # seconds between two events
TOGETHER = 6  # events in one update: gradio would choke on fifty updates a second
DEFAULTS = {
    "student": "young", "teacher": "packaged", "data": "shipped", "text": "", "responses": "file",
    "gates": ["topk:k=5:beta=0.01", "none"], "steps": 24, "batch_size": 4, "learning_rate": 1e-3, "lora_rank": 64,
    "seed": 0,
}  # fmt: skip
STUDENTS = {"healed": "healed", "young": "young: a few minutes of healing", "raw": "raw: six layers, not healed"}


def recordings() -> dict[str, tuple[str, list[dict[str, Any]]]]:
    return {
        "race": ("young student, Top-k against plain", synthetic.recording()),
        "speck": ("young student, Spec-k alone", synthetic.recording(gates=["speck:k=3:beta=0"], seed=4, n=30)),
        "hostile": (
            f"{synthetic.HOSTILE[0]}",
            synthetic.recording(12, tokens=synthetic.HOSTILE, n=26, prompt=" ".join(synthetic.HOSTILE[:6])),
        ),
    }


def text_of(events: list[dict[str, Any]]) -> str:
    return json.dumps(events, ensure_ascii=False, allow_nan=False)


def build(page: gr.Blocks, trainings: Any, settings: Settings) -> None:
    shipped = recordings()
    stops: dict[str, threading.Event] = {}
    logs: dict[str, list[dict[str, Any]]] = {}

    def run(event: gr.EventData) -> Iterator[dict[str, Any]]:
        data = event._data
        name, request = data["run"], data["request"]
        kind = (str(request["text"]).split() or [""])[0] if request["data"] == "pasted" else ""
        told: dict[str, Any] = {"run": name, "share": None, "seconds_left": None, "from": 0, "events": "[]"}
        if kind == "refuse" or not request["steps"]:
            yield {**told, "state": "failed", "text": "A run has at least one step: set the steps to 1 or more."}
            return
        stop = stops[name] = threading.Event()
        log = logs[name] = []
        yield {**told, "state": "waiting", "text": "One run is ahead of yours."}
        yield {**told, "state": "loading", "text": "Loading the pair.", "share": 0.4}
        steps = 500 if kind in ("endless", "deaf") else int(request["steps"])
        every = 1 if steps <= 100 else steps // 50
        events = synthetic.recording(
            steps, gates=request["gates"], seed=int(request["seed"]), kept=True, probe_every=every
        )
        first = 0
        for at, one in enumerate(events):
            time.sleep(BEAT)
            if stop.is_set() and kind == "deaf":
                time.sleep(3)
            if stop.is_set():
                yield {**told, "state": "stopped", "text": f"Stopped. {at} events are kept.", "from": at}
                return
            if kind == "fail" and at == 12:
                text = "The loss is no longer a number: lower the learning rate."
                yield {**told, "state": "failed", "text": text, "from": at}
                return
            log.append(one)
            if at + 1 < len(events) and (at + 1) % TOGETHER:
                continue
            part, first = events[first : at + 1], at + 1
            if kind == "gap" and 5 <= at < 25:
                continue
            step = one.get("step", one.get("row", {}).get("step", 0))
            yield {
                **told,
                "state": "training",
                "text": f"Step {step} of {steps}, racer {'AB'[one.get('racer', 0)]}.",
                "share": at / len(events),
                "seconds_left": BEAT * (len(events) - at),
                "from": at + 1 - len(part),
                "events": text_of(part),
            }
        yield {**told, "state": "done", "text": "Both racers are through.", "from": len(events)}

    def stop(name: Any) -> bool:
        if name in stops:
            stops[name].set()
        return name in stops

    def log(asked: Any) -> dict[str, Any]:
        start = int(asked["from"])
        return {"events": text_of(logs.get(str(asked["run"]), [])[start:]), "from": start}

    def recorded(name: Any) -> dict[str, Any]:
        label, events = shipped[str(name)]
        return {"label": label, "events": text_of(events)}

    def status(_: Any = None) -> dict[str, Any]:
        return {"state": "done", "text": "Ready to train.", "share": None}

    def keep(asked: Any) -> dict[str, Any]:
        rows = [
            one["row"]
            for one in logs.get(str(asked["run"]), [])
            if one["kind"] == "row" and one["racer"] == asked["racer"]
        ]
        if not rows:
            return {"error": "The server no longer keeps this run."}
        return {"text": "\n".join(["step,loss", *(f"{row['step']},{row['loss']}" for row in rows)])}

    panel = Distiller(
        {"recorded": recorded("race")},
        options={
            "limits": {"steps": 200, "batch": 16, "rank": 128, "bytes": 200_000},
            "students": STUDENTS,
            "gates": ["topk", "speck", "none", "adakd", "random"],
            "recorded": [{"name": name, "label": label} for name, (label, _) in shipped.items()],
            "defaults": DEFAULTS,
            "own_models": settings.own_models,
        },
        server_functions=[stop, log, recorded, status, keep],
        elem_id="distiller",
    )
    panel.run(run, outputs=[panel], show_progress="hidden", api_visibility="private", trigger_mode="multiple")


def routes() -> list[Route]:
    def kept(request: Request) -> Response:
        return Response(f"adapter of {request.path_params['key']}".encode(), media_type="application/zip")

    return [Route("/kept/{key}/{name}", kept)]


def no_model(*_: object, **__: object) -> speckd.Pair:
    raise speckd.ModelUnavailable("No model stands behind this page.")


def page() -> gr.Blocks:
    speckd.load_pair = no_model
    app.main.distill = SimpleNamespace(build=build)  # type: ignore[assignment]
    return app.main.build(settings_for({}), load_models=False)
