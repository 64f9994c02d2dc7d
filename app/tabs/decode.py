"""Decode: one text, round by round. The picture lives in the browser; here a request becomes a record, or a file."""

import csv
import logging
from collections import ChainMap
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

import speckd
from app.decoding import DEFAULTS, DecodeRequest
from app.engine import Engine
from app.grids import QUANTITIES, arm_of, as_rows, grids
from app.panels import Decoder
from app.recorded import RecordedArms, recorded_decodings
from app.sessions import Shelf
from app.settings import Settings
from app.steps import Step
from app.tabs.asking import RECORDED, Asking, on_run, options, served
from speckd.decoding.facts import facts
from speckd.files import as_json
from speckd.html import decoding_to_html

log = logging.getLogger(__name__)

TABLES = Path(__file__).parents[2] / "assets" / "decode"


def as_result(record: speckd.DecodeRecord, key: str, recorded: bool = False) -> dict[str, Any]:
    """What the page needs to show a record, as JSON texts: gradio would wrap every number of a dictionary."""
    data = record.to_dict()
    del data["continuations"], data["prompt_ids"]  # the picture draws neither
    return {"id": key, "recorded": recorded, "record": as_json(data), "facts": as_json(facts(record))}


def read_record(text: Any, max_bytes: int) -> speckd.DecodeRecord:
    """The record in a stranger's file, given as text (never as a path).

    Raises:
        ValueError: one sentence, when the text is too long, no record, or one that no picture can be made of.
    """
    if not isinstance(text, str) or len(text) > max_bytes:
        raise ValueError(f"A record file has at most {max_bytes / 1e6:.0f} MB here.")
    if not text.lstrip().startswith("{"):
        raise ValueError("This is not a decode record: the file is not JSON, or it breaks off.")
    record = speckd.DecodeRecord.from_json(text)
    kinds = {"draft": str, "policy": str, "do_sample": bool, "teacher": str, "student": str, "clock": str}
    numbers = {"temperature": (int, float), "seed": int, "max_new_tokens": int, "lenience": (int, float)}
    for name, kind in {**kinds, **numbers}.items():
        if not isinstance(record.config.get(name), kind):  # type: ignore[arg-type]
            raise ValueError(f"This decode record is broken: its configuration has no proper {name}.")
    try:
        as_result(record, "")
    except Exception:
        raise ValueError("This decode record is broken: its numbers make no picture.") from None
    return record


def export(record: speckd.DecodeRecord, kind: str) -> str:
    """The record as the text of a file to keep: "json" or "html"."""
    if kind == "json":
        return record.to_json()
    if kind == "html":
        return decoding_to_html(record.to_dict(), facts(record))
    raise ValueError(f"A record can't be kept as {kind!r:.20}: choose json or html.")


def new_rounds() -> Callable[[Step], dict[str, Any]]:
    """Of the steps of one run: the rounds that the page has not been told yet, and the place of the first."""
    told = 0

    def more(step: Step) -> dict[str, Any]:
        nonlocal told
        first, told = told, len(step.rounds)
        return {"from": first, "rounds": as_json(list(step.rounds[first:told]))}

    return more


def tables(folder: Path = TABLES, recorded: Container[str] = ()) -> dict[str, str]:
    """What the four papers' tables hold, as far as they are here, as JSON texts by name: two grids, two lists.

    Args:
        recorded: names of the decodings that cells of the grids can open.
    """
    told: dict[str, str] = {}
    for name in ("distillspec", "temperature", "policies", "hispec"):
        try:
            with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            if not rows:
                continue
            made = {"grids": grids(name, rows, recorded)} if name in QUANTITIES else as_rows(rows)
            told[name] = as_json({**made, "command": rows[0]["command"]})
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError) as error:
            log.warning("The table %s is left out: %s", name, error)
    return told


def build(page: gr.Blocks, engine: Engine, settings: Settings) -> None:
    """Put the tab into the page that is being built."""
    # Long: half of it is the words of the function that programs call.
    recorded, arms = recorded_decodings(), RecordedArms()
    names = frozenset(arms)
    papers = tables(recorded=names)  # read once: it takes a sixth of a second

    def show(record: speckd.DecodeRecord, key: str, is_recorded: bool) -> dict[str, Any]:
        name = key.removeprefix(RECORDED)
        return as_result(record, key, is_recorded) | ({"arm": arm_of(name)} if is_recorded and name in names else {})

    asking = Asking(
        engine,
        Shelf[speckd.DecodeRecord](settings.kept_traces, settings.max_idle_seconds),
        show,
        ChainMap({one.name: one.record for one in recorded}, arms),  # type: ignore[arg-type]
        no_such="There is no such recorded decoding.",
        gone="The server no longer keeps this decoding: run it again, then keep it.",
    )

    def answer(event: gr.EventData, request: gr.Request) -> Iterator[dict[str, Any]]:
        """A decoding asked for by the page, told round by round."""
        read = lambda data: DecodeRequest.read(data.get("request") or {}, settings)  # noqa: E731
        yield from asking.answer(event, request, read, new_rounds())

    shared = options(settings)
    panel = Decoder(
        {"result": asking.recorded(recorded[0].name)} if recorded else {},
        options={
            **shared,
            "defaults": DEFAULTS,
            "recorded": [{"name": one.name, "label": one.label, "config": one.record.config} for one in recorded],
            "papers": bool(papers),
            "arms": sorted(names),
        },
        server_functions=served(
            stop=asking.stop,
            status=asking.status,
            recorded=asking.recorded,
            export=lambda asked: asking.export(asked, lambda record, how: export(record, how["kind"])),
            open_record=lambda text: asking.open(text, lambda given: read_record(given, settings.max_trace_bytes)),
            papers=lambda _: papers,
        ),
        elem_id="decoder",
    )

    def decode(
        prompt: str,
        teacher: str = "packaged",
        student: str = "healed",
        draft: str = "",
        policy: str = "",
        do_sample: bool = False,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        seed: int = 0,
        lenience: float = 1.0,
    ) -> dict[str, Any]:
        """Let the teacher write an answer, faster, by verifying what a draft proposes; get the record of every round.

        The answer is a record as speckd.DecodeRecord.to_dict writes it (speckd.DecodeRecord.from_dict reads it): every
        round's drafted tokens, coins, verdicts and seconds, the plain loop beside it, and the figures that follow.

        Args:
            prompt: the question that the teacher answers.
            teacher: "packaged", or a name from the list of pairs that this server allows.
            student: "healed", "gated", "half-way", "young" or "raw" of the packaged pair, or a listed name; the
                draft named "student" is it.
            draft: what proposes: "eagle", "student", "student:vocab=8192", "lookup", "exit:layer=8",
                "hispec:draft=4:middle=8" or "none"; empty for the fastest lossless one here.
            policy: how far a round drafts: "fixed:g=4", "confidence:p=0.4", "path:p=0.3", "cost",
                "tree:width=4:depth=3:nodes=8" or "ddd:x=-0.3:width=10:n=11"; empty for "cost".
            do_sample: draw the answer from the teacher's distribution instead of taking its likeliest token each time.
            max_new_tokens: the longest answer, in tokens.
            temperature: what both models' scores are divided by before the softmax; above 0.
            seed: names every coin of a sampled answer; a whole number, 0 or more.
            lenience: 1 is lossless; below 1 more is accepted, and the text is no longer only the teacher's.
        """
        try:
            asked = DecodeRequest.read(
                {
                    "prompt": prompt, "teacher": teacher, "student": student, "draft": draft, "policy": policy,
                    "do_sample": do_sample, "max_new_tokens": max_new_tokens, "temperature": temperature,
                    "seed": seed, "lenience": lenience,
                },
                settings,
            )  # fmt: skip
            record = engine.decode(asked)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return record.to_dict()

    on_run(panel, answer, limit=None)
    gr.api(decode, api_name="decode", concurrency_limit=None)
    page.unload(asking.leave)
