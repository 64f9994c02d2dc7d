"""Strangers' input at everything that can be called, through the real server: only sentences come back.

Seeded by hypothesis and the same at every run. The models are stand-ins (tests/app/stand_in.py), but for a few dozen
calls at the end. `make test` makes a thousand calls at each endpoint, `make test-long` five thousand.
"""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.app.synthetic import HOSTILE
from tests.e2e.server import ROOT, Server, component, event

pytestmark = pytest.mark.slow  # a server of its own, and thousands of calls
AT_ONCE = 12  # below the length of the line
BATCH = 25
MARK = "mark-8812"
# What a refusal or a failure may look like: a sentence, and none of the inside.
INSIDE = ("Traceback", 'File "', "site-packages", str(ROOT), "Error:", "object has no attribute", "NoneType")
GOOD: dict[str, list[Any]] = {
    "inspect": ["Why?", "packaged", "healed", "teacher", "", False, 8, 1.0, 0, "topk", 5, 0.01, "forward_kl"],
    "decode": ["Why?", "packaged", "healed", "eagle", "fixed:g=2", False, 8, 1.0, 0, 1.0],
    "distill": ["young", "topk:k=5:beta=0.01,none", "shipped", "", "file", 3, 4, 0.001, 8, 0, "packaged"],
}
SURE: dict[str, list[Any]] = {  # what is answered, what fails with a sentence, and what is refused at the door
    "complete": GOOD["inspect"],
    "error": [MARK, *GOOD["inspect"][1:10], 0, *GOOD["inspect"][11:]],  # k = 0
    "refused": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, *GOOD["inspect"][1:]],
}

PATHS = [
    "../../etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "https://192.0.2.1/x",
    "C:\\x",
    "~/.ssh/id_rsa",
    "trained:x",
]
FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "${7*7}",
    "{{7*7}}",
    "%s%n",
    "'; DROP TABLE x",
]
WORDS = [
    "topk",
    "speck:k=999",
    "none",
    "given",
    "shipped",
    "pasted",
    "uploaded",
    "mixed",
    "reverse_kl",
    "packaged",
    "raw",
]
TEXTS = st.one_of(
    st.sampled_from(
        [*HOSTILE, *PATHS, *FORMULAS, *WORDS, "", " ", "\ud83e", "\x00" * 9, "{", "[1]", '{"prompt": "a"}']
    ),
    st.lists(st.sampled_from([*HOSTILE, MARK]), max_size=8).map(" ".join),
    st.text(max_size=40),
    st.integers(1, 9_000).map(lambda n: "🧪" * n),
    st.integers(1, 600).map(lambda n: '{"prompt": "a", "response": "b"}\n' * n),
)
NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([10**9, -(10**9), 2**31, 2**63, 10**40, 1e-300, 1e308, float("inf"), float("-inf"), float("nan")]),
    st.floats(0, 2),
)
SCALARS = st.one_of(TEXTS, NUMBERS, st.booleans(), st.none())
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["path", "url", "meta", "a"]), inner),
    max_leaves=6,
)
FILES = st.sampled_from(PATHS).map(lambda path: {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}})


def calls(endpoint: str) -> st.SearchStrategy[list[Any]]:
    """Values for an endpoint: mostly proper ones with some replaced, seldom too few, too many, or nested."""
    good = GOOD[endpoint]

    def replaced(changes: dict[int, Any]) -> list[Any]:
        return [changes.get(place, value) for place, value in enumerate(good)]

    changes = st.dictionaries(st.integers(0, len(good) - 1), SCALARS, min_size=1, max_size=5)
    strange = st.dictionaries(st.integers(0, len(good) - 1), NESTED | FILES, min_size=1, max_size=2)
    return st.one_of(changes.map(replaced), changes.map(replaced), changes.map(replaced), strange.map(replaced),
                     st.lists(SCALARS, max_size=20))  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page as on a Space, with models that answer at once."""
    with Server(tmp_path_factory.mktemp("hostile"), "--stand-in", SPACE_ID="someone/lab", SPECKD_KEPT_RUNS="4") as one:
        yield one


class Caller:
    """Calls with a connection for each thread."""

    def __init__(self, server: Server) -> None:
        self._server, self._own = server, threading.local()

    @property
    def client(self) -> httpx.Client:
        if not hasattr(self._own, "client"):
            self._own.client = httpx.Client(base_url=self._server.url, timeout=120)
        return self._own.client

    def call(self, endpoint: str, values: list[Any]) -> tuple[str, Any]:
        """What comes back: "refused" with words, "error" with words or None, or "complete" with the data."""
        body = json.dumps({"data": values}).encode()
        asked = self.client.post(
            f"/gradio_api/call/{endpoint}", content=body, headers={"content-type": "application/json"}
        )
        if asked.status_code == 422:
            return "refused", asked.json()["detail"]
        assert asked.status_code == 200, (asked.status_code, asked.text[:300])
        text = self.client.get(f"/gradio_api/call/{endpoint}/{asked.json()['event_id']}").text
        kind, data = text.strip().split("\n\n")[-1].split("\n", 1)
        answer = json.loads(data.removeprefix("data: "))
        return kind.removeprefix("event: "), answer["error"] if kind == "event: error" else answer

    def serve(self, number: int, name: str, data: Any) -> httpx.Response:
        """A server function of a panel, as the page's script calls it."""
        body = {"component_id": number, "fn_name": name, "session_hash": "hostile", "data": data}
        content = json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        return self.client.post("/gradio_api/component_server", content=content, headers=headers)


def complain(values: Any, kind: str, told: Any) -> str | None:
    """What is wrong with an answer, None when it is as it should be."""
    if kind == "complete":
        return None if isinstance(told, list) else f"{values!r:.300}: no data"
    if not isinstance(told, str) or not told.strip():
        return f"{values!r:.300}: no words but {told!r:.100}"
    if any(word in told for word in INSIDE) or len(told) > 700 or "\n" in told.strip():
        return f"{values!r:.300}: {told!r:.700}"
    return None


def at_all(server: Server, endpoint: str, n_calls: int, batch: int = BATCH) -> dict[str, int]:
    """Call an endpoint with seeded hostile values; how often each kind of answer came.

    The first batch is hypothesis's simplest: one call, repeated. A sample of few calls needs small batches.
    """
    caller, seen = Caller(server), {"complete": 0, "error": 0, "refused": 0}

    @settings(
        max_examples=max(1, n_calls // batch),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls(endpoint), min_size=batch, max_size=batch))
    def knock(asked: list[list[Any]]) -> None:
        answers = list(pool.map(lambda values: caller.call(endpoint, values), asked))
        wrong = [complain(values, *answer) for values, answer in zip(asked, answers, strict=True)]
        assert [one for one in wrong if one] == []
        for kind, _ in answers:
            seen[kind] += 1

    with ThreadPoolExecutor(AT_ONCE) as pool:
        knock()
    return seen


def nothing_is_left(server: Server) -> None:
    """No word of a visitor in the log, no error behind the page, no file but a run's own in its folder."""
    log = server.log()
    assert MARK not in log and "Traceback" not in log, log[-2000:]
    runs = [name for name in server.files() if name.startswith("tmp/speckd-lab-")]
    assert [name for name in server.files() if name not in runs] == []
    assert all(name.endswith("/data.jsonl") and name.count("/") == 4 for name in runs), runs
    assert len(runs) <= 5, "finished runs beyond those kept are removed"


@pytest.mark.parametrize("endpoint", list(GOOD))
# a thousand over all endpoints together; before a release five thousand at each
@pytest.mark.parametrize("n_calls", [350, pytest.param(5_000, marks=[pytest.mark.long, pytest.mark.timeout(1500)])])
def test_hostile_calls_get_an_answer_or_a_sentence(server: Server, endpoint: str, n_calls: int) -> None:
    assert Caller(server).call(endpoint, GOOD[endpoint])[0] == "complete"
    seen = at_all(server, endpoint, n_calls)
    print(f"\n{endpoint}: {sum(seen.values()):,} calls: {seen}")
    assert sum(seen.values()) >= n_calls and min(seen.values()) > n_calls / 50, seen
    nothing_is_left(server)
    assert Caller(server).call(endpoint, GOOD[endpoint])[0] == "complete"


@pytest.mark.parametrize(
    ("panel", "name"),
    [
        *(("inspector", name) for name in ("stop", "status", "recorded", "export", "open_trace")),
        *(("decoder", name) for name in ("stop", "status", "recorded", "export", "open_record", "papers")),
        *(("distiller", name) for name in ("stop", "status", "recorded", "log", "keep")),
    ],
)
def test_hostile_data_at_what_the_pages_script_calls(server: Server, panel: str, name: str) -> None:
    caller = Caller(server)
    number = component(caller.client.get("/config").json(), panel)
    keys = st.sampled_from(["id", "kind", "knobs", "pin", "run", "from", "racer"])

    @settings(max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(NESTED, FILES, st.dictionaries(keys, NESTED, max_size=5)))
    def knock(data: Any) -> None:
        answer = caller.serve(number, name, data)
        assert answer.status_code == 200, (data, answer.text[:300])
        told = answer.json()
        error = told.get("error") if isinstance(told, dict) else None
        assert error is None or complain(data, "error", error) is None

    knock()
    nothing_is_left(server)


@pytest.mark.parametrize(
    ("panel", "field"), [("inspector", "question"), ("decoder", "request"), ("distiller", "request")]
)
def test_hostile_events_of_a_panel_end_in_a_sentence(server: Server, panel: str, field: str) -> None:
    caller = Caller(server)
    number = event(caller.client.get("/config").json(), panel)
    fields = st.sampled_from(
        ["prompt", "student", "teacher", "source", "gates", "text", "data", "steps", "prefix_ids", "draft", "policy"]
    )
    asked = st.one_of(NESTED, st.dictionaries(fields, NESTED, max_size=6))

    @settings(max_examples=40, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(NESTED, st.fixed_dictionaries({"run": NESTED, field: asked})))
    def knock(data: Any) -> None:
        body = {"data": [], "fn_index": number, "session_hash": "hostile", "event_data": data}
        content = json.dumps(body).encode()
        joined = caller.client.post(
            "/gradio_api/queue/join", content=content, headers={"content-type": "application/json"}
        )
        if joined.status_code == 422:
            assert '"path"' in content.decode() and "holds no files" in joined.text
            return
        assert joined.status_code == 200, joined.text
        with caller.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "hostile"}) as lines:
            messages = [json.loads(line[6:]) for line in lines.iter_lines() if line.startswith("data: ")]
        (last,) = (message for message in messages if message["msg"] == "process_completed")
        assert last["success"], (data, last)

    knock()
    nothing_is_left(server)


@pytest.mark.packaged
@pytest.mark.timeout(900)
@pytest.mark.parametrize("calls", [15, pytest.param(50, marks=pytest.mark.long)])
def test_hostile_calls_over_the_real_models(tmp_path: Path, calls: int) -> None:
    with Server(tmp_path, "--models", "--untrained", SPACE_ID="someone/lab", SPECKD_MAX_NEW_TOKENS="12") as one:
        for kind, values in SURE.items():  # of each kind one, whatever the few random calls below come to
            answer = Caller(one).call("inspect", values)
            assert answer[0] == kind and complain(values, *answer) is None, answer
        seen = at_all(one, "inspect", calls, batch=5)
        assert sum(seen.values()) >= calls, seen
        assert MARK not in one.log() and "Traceback" not in one.log(), one.log()[-2000:]
        assert [name for name in one.files() if not name.startswith("tmp/speckd-lab-")] == []
