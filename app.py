"""Serve the page: `python app.py`, or a Hugging Face Space. HOST and PORT say where (127.0.0.1:7860)."""

import gc
import os

gc.disable()  # a million objects come with the imports, and stay: to look for garbage in them takes an eighth longer
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported: nothing is reported to anyone
# Before torch is imported: page and trainer share the cores, and threads that wait by spinning starve the other one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from app.main import build, launch_options

gc.freeze()
gc.enable()
ON_A_SPACE = bool(os.environ.get("SPACE_ID"))
HOST = os.environ.get("HOST") or ("0.0.0.0" if ON_A_SPACE else "127.0.0.1")
PORT = int(os.environ.get("PORT") or 7860)

demo = build()

if __name__ == "__main__":
    demo.launch(server_name=HOST, server_port=PORT, **launch_options(demo))
