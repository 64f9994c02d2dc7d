"""The real page on a free port, in a process of its own: `python tests/e2e/serve.py [--models]` prints its address."""

import os
import sys
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
sys.path.insert(0, str(Path(__file__).parents[2]))

from app.main import build, launch_options

if __name__ == "__main__":
    page = build(load_models="--models" in sys.argv)
    options = {**launch_options(), "quiet": True, "prevent_thread_lock": True, "server_name": "127.0.0.1"}
    _, url, _ = page.launch(server_port=int(os.environ["PORT"]), **options)
    print(f"serving {url}", flush=True)
    page.block_thread()
