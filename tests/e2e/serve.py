"""The real page in a process of its own, on PORT. `python tests/e2e/serve.py` serves it without models, with --models
the packaged pair stands behind it, with --missing no model can be had, --panels serves panels side by side, and with
--distill made-up training runs stand behind the Distill tab (tests/e2e/scripted.py); --learn serves the Learn tab alone
(tests/e2e/learn_page.py). With --stand-in, models that answer at once with made-up traces (tests/app/stand_in.py). With
--brief FOLDER, trainings are small: eight examples of the shipped data (the teacher reads all before the first run) in
batches of two, and short answers; what the teacher made of them is kept in the folder: another server of the tests may
be at the same work. With --untrained, no process gets ready to train before the first run."""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
sys.path.insert(0, str(Path(__file__).parents[2]))

import gradio as gr

import speckd
from app import requests
from app.main import build, launch_options, rest
from app.training import Trainings


def panels_side_by_side() -> gr.Blocks:
    import plotly.graph_objects as go

    from app.panels import LivePlot, TokenStrip
    from tests.app import synthetic

    def strip(n: int, seed: int, k: int) -> dict[str, Any]:
        return {"trace": synthetic.trace(n, seed=seed), "knobs": {"gate": "topk", "k": k}, "pin": 0}

    with gr.Blocks(analytics_enabled=False) as page:
        one = TokenStrip(strip(20, 1, 1), options={"label": "First", "controls": True, "verdict": True}, elem_id="one")
        two = TokenStrip(strip(30, 2, 50), options={"label": "Second"}, elem_id="two")
        told = gr.Textbox(label="Told", elem_id="told")
        plot = LivePlot({"figure": go.Figure(go.Scatter(y=[1, 2])).to_json(), "height": 200}, elem_id="plot")
        more = gr.Button("more", elem_id="more")

        def pinned(event: gr.EventData) -> str:
            return f"second: {event.token}"

        def grown() -> dict[str, Any]:
            return {"figure": go.Figure(go.Scatter(y=[1, 2, 5, 9])).to_json()}

        two.pin(pinned, outputs=[told], api_visibility="private")
        more.click(grown, outputs=[plot], api_visibility="private")
        more.click(lambda: strip(12, 3, 2), outputs=[one], api_visibility="private")
    return page


def no_model(*_: object, **__: object) -> speckd.Pair:
    raise speckd.ModelUnavailable("The packaged teacher is not installed, and the Hub cannot be reached.")


def main() -> None:
    if "--missing" in sys.argv:
        speckd.load_pair = no_model
    if "--stand-in" in sys.argv:
        from tests.app import stand_in

        stand_in.install(float(os.environ.get("STAND_IN_SECONDS", 0)))
    if "--untrained" in sys.argv:
        Trainings.warm = lambda self: None
    if "--brief" in sys.argv:
        assert requests.SHIPPED_EXAMPLES > 8 and requests.HELD_OUT_EXAMPLES > 2 and requests.cache_folder
        assert requests.ANSWER_TOKENS > 12 and requests.DEFAULTS["batch_size"] > 2
        requests.SHIPPED_EXAMPLES, requests.HELD_OUT_EXAMPLES, requests.ANSWER_TOKENS = 8, 2, 12
        requests.DEFAULTS["batch_size"] = 2
        teacher_cache = Path(sys.argv[sys.argv.index("--brief") + 1])
        requests.cache_folder = lambda: teacher_cache
    if "--panels" in sys.argv:
        page = panels_side_by_side()
    elif "--distill" in sys.argv:
        from tests.e2e import scripted

        page = scripted.page()
    elif "--learn" in sys.argv:
        from tests.e2e import learn_page

        page = learn_page.page()
    else:
        page = build(load_models=len(sys.argv) > 1)
    rest(page)
    options = {**launch_options(page), "quiet": True, "prevent_thread_lock": True, "server_name": "127.0.0.1"}
    if "--distill" in sys.argv:
        options["app_kwargs"]["routes"][:0] = scripted.routes()
    _, url, _ = page.launch(server_port=int(os.environ["PORT"]), **options)
    print(f"serving {url}", flush=True)
    page.block_thread()


if __name__ == "__main__":
    main()
