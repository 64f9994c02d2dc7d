"""The Learn tab alone, with an engine of straw behind "try your own sentence": no model anywhere.

What a question does is told by its first word: "slow" never ends until it is stopped, "fail" ends with a sentence. Any
other gets the shipped trace of the young student, under its own name.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import gradio as gr

import speckd
from app.engine import Step
from app.panels import TokenStrip
from app.requests import Question
from app.settings import settings_for
from app.tabs import learn
from tests.app import synthetic

SHIPPED = Path(__file__).parents[2] / "assets" / "traces" / "young.json"


class StandIn:
    """What app.engine.Engine is to the Learn tab."""

    def status(self) -> Step:
        return Step("done", "The models are ready.")

    def run(self, question: Question, stop: threading.Event) -> Iterator[Step]:
        word = question.prompt.split()[0].lower()
        yield Step("writing", "The teacher writes: token 1 of at most 48.", 0.1, partial="So", n_tokens=1)
        if word == "fail":
            yield Step("failed", "There was not enough memory for this: choose a shorter text or smaller models.")
            return
        while word == "slow" and not stop.is_set():
            time.sleep(0.01)
        if stop.is_set():
            yield Step("stopped", "Stopped.")
            return
        yield Step("measuring", "The student reads it.", 0.8)
        trace = speckd.Trace.from_json(SHIPPED)
        trace.config["prompt"] = question.prompt
        yield Step("done", f"{len(trace.tokens)} tokens.", 1.0, trace=trace)


def page() -> gr.Blocks:
    with gr.Blocks(title="Learn", analytics_enabled=False, fill_width=True) as blocks, gr.Tabs(elem_id="tabs"):
        for name, label in (("inspect", "Inspect"), ("learn", "Learn")):
            with gr.Tab(label, id=name, elem_id=f"tab-{name}"):
                if name == "learn":
                    learn.build(blocks, StandIn(), settings_for({}))  # type: ignore[arg-type]
                else:
                    TokenStrip({"trace": synthetic.trace(12)}, elem_id="another")
    blocks.queue(max_size=64, default_concurrency_limit=4)
    return blocks
