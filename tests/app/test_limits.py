"""What a shared page refuses, and how: the length of its line, its clocks, its listed pairs, its door."""

import json
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import speckd
from app import engine as engines
from app.engine import Engine, Step
from app.guard import OPEN, POLICY, Guard, refusal, route_path
from app.requests import Question
from app.sessions import Shelf
from app.settings import LOCAL, ON_A_SPACE, SMOLLM2, Settings, settings_for
from tests import coroutines
from tests.app import stand_in

MARK = "a question with a mark-7391 in it"


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(speckd, "load_pair", stand_in.load_pair)

    def behave(inspect: Callable[..., Any] = stand_in.inspect) -> None:
        monkeypatch.setattr(speckd, "inspect", inspect)

    behave()
    return behave


def ask(settings: Settings = ON_A_SPACE, **data: Any) -> Question:
    return Question.read({"prompt": MARK, **data}, settings)


def end(steps: Iterator[Step]) -> Step:
    *_, last = steps
    return last


def waits_for(go: threading.Event) -> Callable[..., Any]:
    def inspect(pair: Any, prompt: str, *, should_stop: Callable[[], bool], **_: Any) -> speckd.Trace:
        while not go.wait(0.01):
            if should_stop():
                raise speckd.Stopped
        return stand_in.answer_to(prompt)

    return inspect


def test_who_comes_when_the_line_is_full_is_told_kindly_and_holds_nothing(models: Any) -> None:
    go = threading.Event()
    models(waits_for(go))
    engine = Engine(Settings(max_waiting=3))
    inside = [engine.run(ask(), threading.Event()) for _ in range(3)]
    for run in inside:
        next(run)
    threads = threading.active_count()
    for _ in range(20):
        last = end(engine.run(ask(), threading.Event()))
        assert last.state == "failed" and last.text == "Many questions are waiting already: try again in a minute."
    assert threading.active_count() <= threads
    go.set()
    assert [end(run).state for run in inside] == ["done"] * 3
    assert end(engine.run(ask(), threading.Event())).state == "done", "the line is open again"


def test_a_question_that_takes_too_long_ends_in_a_sentence_and_the_next_one_works(models: Any) -> None:
    models(waits_for(threading.Event()))
    engine = Engine(Settings(max_question_seconds=1))
    began = time.monotonic()
    last = end(engine.run(ask(), threading.Event()))
    assert last.state == "failed" and "longer than 1 seconds" in last.text and "fewer tokens" in last.text
    assert time.monotonic() - began < 30
    models()
    assert end(engine.run(ask(), threading.Event())).state == "done"


def test_loading_that_takes_too_long_lets_the_line_move_on(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, on_progress: Callable[[Any], None], **__: Any) -> Any:
        while True:
            time.sleep(0.05)
            on_progress(speckd.Progress("download", 1, 100))

    monkeypatch.setattr(speckd, "load_pair", load)
    engine = Engine(Settings(max_loading_seconds=1))
    last = end(engine.run(ask(), threading.Event()))
    assert last.state == "failed" and last.text.startswith("Loading the models took longer")
    monkeypatch.setattr(speckd, "load_pair", stand_in.load_pair)
    assert end(engine.run(ask(), threading.Event())).state == "done"


def test_a_space_loads_listed_pairs_at_their_commits_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[Any, ...]] = []

    def load(teacher: str, student: str, **options: Any) -> Any:
        loaded.append((teacher, student, options.get("revision"), options.get("student_revision")))
        return stand_in.load_pair()

    monkeypatch.setattr(speckd, "load_pair", load)
    monkeypatch.setattr(speckd, "inspect", stand_in.inspect)
    engine = Engine(ON_A_SPACE)
    listed = ask(teacher=SMOLLM2.teacher, student=SMOLLM2.student)
    assert end(engine.run(listed, threading.Event())).state == "done"
    assert end(engine.run(ask(student="young"), threading.Event())).state == "done"
    assert loaded == [
        (SMOLLM2.teacher, SMOLLM2.student, SMOLLM2.teacher_revision, SMOLLM2.student_revision),
        ("packaged", "young", None, None),
    ]
    for teacher, student in (
        (SMOLLM2.student, SMOLLM2.teacher),
        (SMOLLM2.teacher, "healed"),
        ("packaged", SMOLLM2.student),
        ("/etc", "/etc"),
        ("../..", SMOLLM2.student),
        (SMOLLM2.teacher + "@main", SMOLLM2.student),
    ):
        with pytest.raises(ValueError, match="packaged pair"):
            ask(teacher=teacher, student=student)


@pytest.mark.parametrize(
    ("kind", "words"), [(torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2 GiB"), (MemoryError, "")]
)
def test_out_of_memory_is_one_sentence_gives_memory_back_and_the_next_request_works(
    models: Any, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], words: str
) -> None:
    held: list[weakref.ref[Any]] = []
    freed: list[bool] = []

    def inspect(*_: Any, **__: Any) -> Any:
        large = torch.zeros(1000)
        held.append(weakref.ref(large))
        raise kind(words)

    models(inspect)
    monkeypatch.setattr(engines, "_release_memory", lambda: freed.append(held[0]() is None))
    engine = Engine(Settings())
    last = end(engine.run(ask(), threading.Event()))
    assert last.state == "failed" and "memory" in last.text and "choose a shorter text" in last.text
    assert "Traceback" not in last.text and "GiB" not in last.text
    assert freed == [True], "by the time the allocator is asked, nothing holds on to it"
    models()
    assert end(engine.run(ask(), threading.Event())).state == "done"


def test_a_gpus_memory_is_emptied_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    cuda = SimpleNamespace(is_available=lambda: True, empty_cache=lambda: called.append("emptied"))
    monkeypatch.setattr(torch, "cuda", cuda)
    engines._release_memory()
    assert called == ["emptied"]


def test_the_log_says_where_it_failed_and_quotes_nobody(models: Any, caplog: pytest.LogCaptureFixture) -> None:
    def inspect(pair: Any, prompt: str, **_: Any) -> Any:
        raise RuntimeError(f"cannot make sense of {prompt}")

    models(inspect)
    with caplog.at_level(logging.DEBUG):
        last = end(Engine(Settings()).run(ask(), threading.Event()))
    assert "log says what" in last.text and "mark-7391" not in last.text
    assert "RuntimeError" in caplog.text and "in inspect" in caplog.text
    assert "mark-7391" not in caplog.text


def test_a_gpu_on_loan_is_asked_for_before_the_page_opens_and_gets_no_model_by_mail(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What crosses into a loan's process is pickled: a name travels, and the pair is found in the forked memory."""
    import pickle

    decorated: list[Any] = []

    def gpu(duration: int) -> Callable[[Any], Any]:
        def decorate(function: Any) -> Any:
            decorated.append(function)

            def call(*arguments: Any) -> Any:
                return function(*pickle.loads(pickle.dumps(arguments)))

            return call

        return decorate

    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=gpu))
    engine = Engine(Settings(zero_gpu=True))
    assert len(decorated) == 1, "found at startup"
    assert end(engine.run(ask(), threading.Event())).state == "done"
    engines._lent.clear()  # a process that was forked before the pair was loaded
    found = list(engines._inspect_on_loan(("packaged", "healed"), ("packaged", "healed", {}), ask(), ""))
    assert found[-1].trace is not None


def test_kept_things_are_forgotten_when_nobody_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    shelf: Shelf[str] = Shelf(room=10, idle=60)
    old, used = shelf.put("old"), shelf.put("used")
    clock[0] = 50
    assert shelf.get(used) == "used"
    clock[0] = 70
    assert shelf.get(old) is None and shelf.get(used) == "used"


# --- the door -------------------------------------------------------------------------------------------------------


BLOCKS: Any = SimpleNamespace(  # as much of a gr.Blocks as the door looks at
    blocks={3: SimpleNamespace(stop=SimpleNamespace(_is_server_fn=True), load=lambda: None)},
    fns={
        0: SimpleNamespace(api_name="run", api_visibility="private", inputs=[], targets=[(3, "run")]),
        1: SimpleNamespace(
            api_name="inspect",
            api_visibility="public",
            inputs=[1, 2],
            targets=[(None, None)],
            fn=lambda prompt, k=5, request=None: None,
        ),
        2: SimpleNamespace(api_name="leave", api_visibility="private", inputs=[], targets=[(0, "unload")]),
    },
)


def knock(
    path: str,
    method: str = "GET",
    body: bytes = b"",
    limit: int = 1_000,
    host: str = "localhost:7860",
    hosts: tuple[str, ...] = LOCAL,
    **scope: Any,
) -> tuple[int, dict[str, str]]:
    """Status and headers of the guard before a server that answers 200 to everything it is asked."""
    sent: list[dict[str, Any]] = []
    pieces = [body[i : i + 100] for i in range(0, len(body), 100)] or [b""]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> dict[str, Any]:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    page = SimpleNamespace(get_blocks=lambda: BLOCKS)
    asked = {"type": "http", "method": method, "path": path, "headers": [], "root_path": "", "app": page, **scope}
    asked["headers"] = [(b"host", host.encode()), *asked["headers"]]
    coroutines.run(Guard(app, limit, hosts)(asked, receive, send))  # type: ignore[arg-type]
    if not sent:
        return 0, {}
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize(
    "path",
    [
        "/", "/config", "/parts/speckd.js", "/kept/aB_-9/0.zip", "/gradio_api/queue/join", "/gradio_api/queue/data",
        "/gradio_api/component_server/", "/gradio_api/heartbeat/abc123", "/assets/index-1.js", "/theme.css",
        "/gradio_api/call/inspect", "/gradio_api/call/inspect/0a1b", "/gradio_api/info", "/static/js/x.js",
        "/gradio_api/openapi.json", "/gradio_api/call/v2/inspect/0a1b", "/gradio_api/mcp", "/gradio_api/mcp/",
    ],
)  # fmt: skip
def test_what_the_page_uses_is_open(path: str) -> None:
    assert knock(path)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload", "/gradio_api/upload_progress", "/gradio_api/file=/etc/passwd", "/file=/etc/passwd",
        "/gradio_api/file/etc/passwd", "/gradio_api/proxy=https://example.org/", "/gradio_api/process_recording",
        "/gradio_api/vibe-edit", "/gradio_api/run/inspect", "/gradio_api/api/inspect", "/gradio_api/runs",
        "/gradio_api/run-history/connect", "/monitoring", "/dev/reload", "/gradio_api/stream/a/close",
        "/gradio_api/custom_component/0/x/y/z", "/gradio_api/deep_link", "/gradio_api/profiling/clear", "/login",
        "/parts/../app.py", "/parts/a/b", "/kept/../x", "/kept/k/../../x", "//", "/config/x", "/gradio_api/mcp/sse",
        "/gradio_api/mcp/messages/", "/gradio_api/mcp/schema", "/gradio_api/call/v2/run", "/gradio_api/call/v2/",
        "/gradio_api/call/run", "/.git/config", "/app.py", "/svelte/x", "/gradio_api/queue/status", "/parts/x\n",
    ],
)  # fmt: skip
def test_what_the_page_does_not_use_is_closed(path: str) -> None:
    status, headers = knock(path)
    assert status == 404 and headers["content-security-policy"] == POLICY
    assert not OPEN.fullmatch(path)


def test_requests_are_bounded_whatever_length_they_promise() -> None:
    call = json.dumps({"data": ["", "x" * 900], "fn_index": 1, "session_hash": "a"}).encode()
    assert knock("/gradio_api/queue/join", "POST", call + b" " * (1_000 - len(call)))[0] == 200
    assert knock("/gradio_api/queue/join", "POST", call + b" " * (1_001 - len(call)))[0] == 413
    headers = [(b"content-length", b"1001")]
    assert knock("/gradio_api/queue/join", "POST", headers=headers)[0] == 413
    assert knock("/gradio_api/queue/join", "POST", headers=[(b"content-length", b"-5")])[0] == 413
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "CONNECT"):
        assert knock("/config", method)[0] == 404


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("queue/join", {"data": ["a", 1], "fn_index": 1, "session_hash": "s-1_x"}, None),
        ("queue/join", {"data": [], "fn_index": 0, "session_hash": "s", "event_data": {"run": {}}}, None),
        (
            "queue/join",
            {"data": [], "fn_index": 0, "session_hash": "s", "event_data": {"a": [[{"path": "x"}]]}},
            "holds no files",
        ),
        ("queue/join", {"data": [], "fn_index": 2, "session_hash": "s"}, "no such function"),
        ("queue/join", {"data": [], "fn_index": 9, "session_hash": "s"}, "no such function"),
        ("queue/join", {"data": [], "fn_index": "0", "session_hash": "s"}, "no such function"),
        ("queue/join", {"data": [], "fn_index": 0}, "no such function"),
        ("queue/join", {"data": [], "fn_index": 0, "session_hash": "../x"}, "no proper name"),
        ("queue/join", {"data": [], "fn_index": 0, "session_hash": "x" * 65}, "no proper name"),
        ("queue/join", {"data": ["a"], "fn_index": 1, "session_hash": "s"}, "takes 2 values"),
        ("queue/join", {"data": {"0": 1}, "fn_index": 0, "session_hash": "s"}, "takes 0 values"),
        ("queue/join", {"data": ["a", {"path": "/etc/passwd"}], "fn_index": 1, "session_hash": "s"}, "Each value"),
        ("queue/join", [1], "JSON object"),
        ("queue/join", None, "JSON object"),
        ("call/inspect", {"data": ["a", None]}, None),
        ("call/inspect", {"data": ["a", ["b"]]}, "Each value"),
        ("call/inspect", {"data": ["a", "b", "c"]}, "takes 2 values"),
        ("call/distill", {"data": []}, "no such function"),
        ("call/v2/inspect", {"prompt": "a"}, None),
        ("call/v2/inspect", {"prompt": "a", "k": 3}, None),
        ("call/v2/inspect", {"k": 3}, "'prompt' is missing"),
        ("call/v2/inspect", {"prompt": "a", "request": 1}, "no argument 'request'"),
        ("call/v2/inspect", {"prompt": "a", "oauth_token": "x"}, "no argument 'oauth_token'"),
        ("call/v2/inspect", {"prompt": {"path": "/etc/passwd", "meta": {}}}, "Each value"),
        ("call/v2/inspect", [1], "JSON object"),
        ("call/v2/run", {}, "no such function"),
        ("mcp", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"capabilities": {}}}, None),
        ("mcp", {"jsonrpc": "2.0", "method": "notifications/initialized"}, None),
        ("mcp", {"method": "tools/call", "params": {"name": "inspect", "arguments": {"prompt": "a"}}}, None),
        ("mcp", {"method": "tools/call", "params": {"name": "lab_inspect", "arguments": {"prompt": "a"}}}, None),
        ("mcp", {"method": "tools/call", "params": {"name": "run", "arguments": {}}}, "no such function"),
        ("mcp", {"method": "tools/call", "params": {"name": "inspect"}}, "'prompt' is missing"),
        ("mcp", {"method": "tools/call", "params": {"name": "inspect", "arguments": {"prompt": []}}}, "Each value"),
        ("mcp", {"method": "tools/call", "params": {"name": "inspect", "arguments": [1]}}, "JSON object"),
        ("mcp", {"method": "tools/call", "params": {"arguments": {}}}, "by its name"),
        ("mcp", {"method": "tools/call"}, "by its name"),
        ("mcp", {"method": "resources/read", "params": {"a": [{"path": "/etc/passwd"}]}}, "no files"),
        ("mcp", [{"method": "tools/call"}], "JSON object"),
        ("component_server", {"component_id": 3, "fn_name": "stop", "session_hash": "s", "data": {"a": [1]}}, None),
        ("component_server", {"component_id": 3, "fn_name": "load", "session_hash": "s"}, "no such function"),
        ("component_server", {"component_id": 3, "fn_name": "__class__", "session_hash": "s"}, "no such function"),
        ("component_server", {"component_id": 8, "fn_name": "stop", "session_hash": "s"}, "no such function"),
        ("component_server", {"component_id": 3, "fn_name": "stop"}, "no such function"),
        ("component_server", {"component_id": [3], "fn_name": "stop", "session_hash": "s"}, "no such function"),
    ],
)
def test_a_call_that_fits_no_function_is_one_sentence(path: str, body: Any, words: str | None) -> None:
    told = refusal(f"/gradio_api/{path}", json.dumps(body).encode(), BLOCKS)
    assert told is None if words is None else (told is not None and words in told)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a": 1} x', b"[" * 200_000])
def test_a_call_that_is_no_json_is_one_sentence(body: bytes) -> None:
    assert refusal("/gradio_api/queue/join", body, BLOCKS) == "This is not JSON."
    assert knock("/gradio_api/queue/join", "POST", body[:900])[0] == 422


def test_every_answer_tells_a_browser_what_it_may_fetch() -> None:
    headers = knock("/")[1]
    policy = dict(line.split(" ", 1) for line in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'" and policy["object-src"] == "'none'"
    for name, sources in policy.items():
        if name != "frame-ancestors":
            assert "http" not in sources and "*" not in sources, name
    assert policy["frame-ancestors"] == "'self' https://huggingface.co https://*.hf.space"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("host", "environment", "status"),
    [
        ("localhost:7860", {}, 200), ("127.0.0.1", {}, 200), ("[::1]:7860", {}, 200), ("LOCALHOST", {}, 200),
        ("evil.example", {}, 421), ("evil.example:7860", {}, 421), ("localhost.evil.example", {}, 421), ("", {}, 421),
        ("192.168.1.5:7860", {}, 421), ("192.168.1.5:7860", {"HOST": "0.0.0.0"}, 200),
        ("evil.example", {"HOST": "0.0.0.0"}, 421), ("[fd00::5]:80", {"HOST": "::"}, 200),
        ("lab.example", {"HOST": "lab.example"}, 200), ("a.example", {"SPECKD_HOSTS": "b.example, A.example:80"}, 200),
        ("me-speckd-lab.hf.space", {"SPACE_ID": "me/speckd_lab"}, 200),
        ("me-lab.hf.space", {"SPACE_ID": "me/lab", "SPACE_HOST": "me-lab.hf.space"}, 200),
        ("you-lab.hf.space", {"SPACE_ID": "me/lab"}, 421),
    ],
)  # fmt: skip
def test_a_server_answers_only_to_its_own_names(host: str, environment: dict[str, str], status: int) -> None:
    hosts = settings_for(environment).hosts
    assert knock("/config", host=host, hosts=hosts)[0] == status
    assert knock("/gradio_api/mcp", "POST", b"{}", host=host, hosts=hosts)[0] == status


def test_a_mounted_page_is_guarded_below_its_own_path() -> None:
    assert route_path({"path": "/some/path/config", "root_path": "/some/path"}) == "/config"
    assert route_path({"path": "/config", "root_path": "/some/path"}) == "/config"
    assert knock("/some/path/gradio_api/upload", root_path="/some/path")[0] == 404
    assert knock("/some/path/config", root_path="/some/path/")[0] == 200
