"""The real server, asked raw: what is served and what is not, whose files are whose, and what a visit leaves behind."""

import json
import signal
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bench import drop_sessions, load_page
from tests.e2e.server import ROOT, Server, component, event

pytestmark = pytest.mark.slow  # it starts servers
HIDDEN = "what-a-file-holds-4471"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page as on a Space, with models that answer at once, and files in its folders that nobody may read."""
    with Server(tmp_path_factory.mktemp("routes"), "--stand-in", SPACE_ID="someone/lab") as one:
        (one.folder / "work" / "secret.txt").write_text(HIDDEN)
        (one.folder / "tmp" / "gradio").mkdir(exist_ok=True)
        (one.folder / "tmp" / "gradio" / "secret.txt").write_text(HIDDEN)
        (one.folder / "tmp" / "gradio" / "link").symlink_to("/etc/passwd")
        (one.folder / "work" / "link").symlink_to("/etc/passwd")
        yield one


def raw(server: Server, target: str, method: str = "GET", more: str = "") -> tuple[int, bytes]:
    """Status and body of a request whose target is sent byte by byte as it is: no client tidies it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
        head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
        line.sendall(f"{head}{more}\r\n".encode())
        answer = b""
        while piece := line.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def games(server: Server) -> list[str]:
    """Every way to name a file that is not to be had."""
    wanted = [
        "/etc/passwd",
        str(ROOT / "app" / "main.py"),
        str(server.folder / "work" / "secret.txt"),
        str(server.folder / "tmp" / "gradio" / "secret.txt"),
        str(server.folder / "tmp" / "gradio" / "link"),
        str(server.folder / "work" / "link"),
        "secret.txt",
        "../../../../../../etc/passwd",
        "..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "..%252f..%252f..%252fetc%252fpasswd",
        "....//....//....//etc/passwd",
        "..\\..\\..\\etc\\passwd",
        "/proc/self/environ",
        "file:///etc/passwd",
        "%00/etc/passwd",
        "//etc/passwd",
        "http://127.0.0.1:1/x",
    ]
    places = [
        "/gradio_api/file=", "/gradio_api/file/", "/file=", "/file/", "/gradio_api/proxy=", "/static/", "/assets/",
        "/parts/", "/kept/", "/kept/key/", "/kept/../", "/svelte/", "/gradio_api/custom_component/0/client/component/",
        "/gradio_api/stream/", "/", "/gradio_api/call/", "/pwa_icon/", "/monitoring/",
    ]  # fmt: skip
    return [place + name for place in places for name in wanted]


def test_no_game_with_paths_gets_a_file(server: Server) -> None:
    served = []
    for target in games(server):
        status, body = raw(server, target.replace(" ", "%20"))
        if status == 200 or HIDDEN.encode() in body or b"root:" in body or b"import gradio" in body:
            served.append((target, status, body[:80]))
        assert b"Traceback" not in body, target
    assert served == []
    assert "Traceback" not in server.log()


def test_addresses_in_full_and_nonsense_are_refused_too(server: Server) -> None:
    for target in (
        "http://127.0.0.1:1/etc/passwd",
        "/%ff%fe",
        "/parts/%00",
        "/parts/speckd.js%00.txt",
        "/kept/a/b%0ac",
    ):
        assert raw(server, target)[0] in (400, 404), target
    assert raw(server, "/", method="TRACE")[0] in (404, 405)
    assert raw(server, "/config")[0] == 200


@pytest.mark.parametrize(
    "target",
    [
        "/gradio_api/upload", "/gradio_api/upload?upload_id=x", "/gradio_api/process_recording",
        "/gradio_api/vibe-edit", "/gradio_api/run/inspect", "/gradio_api/api/inspect", "/login", "/upload",
        "/gradio_api/run-history/connect",
    ],
)  # fmt: skip
def test_nothing_can_be_sent_but_calls(server: Server, target: str) -> None:
    before = server.files()
    answer = httpx.post(server.url + target, files={"files": ("x.txt", b"x" * 200_000)}, timeout=30)
    assert answer.status_code == 404
    assert server.files() == before


def test_a_file_hidden_in_a_call_is_not_fetched_and_not_copied(server: Server) -> None:
    before = server.files()
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.5)
        address = f"http://127.0.0.1:{trap.getsockname()[1]}/x"
        for path in (address, "/etc/passwd", str(server.folder / "work" / "secret.txt")):
            file = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
            values: list[Any] = [file, *["x"] * 12]
            for body in (
                {"data": values},
                {"data": [], "event_data": {"question": {"prompt": file}}, "fn_index": 0, "session_hash": "s"},
            ):
                for target in ("/gradio_api/call/inspect", "/gradio_api/queue/join"):
                    assert httpx.post(server.url + target, json=body, timeout=30).status_code == 422
        with pytest.raises(TimeoutError):
            trap.accept()
    assert server.files() == before


def test_a_request_too_large_is_refused_before_it_is_read(server: Server) -> None:
    def forever() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 1_000_000

    try:
        status = httpx.post(server.url + "/gradio_api/queue/join", content=forever(), timeout=60).status_code
    except httpx.TransportError:
        status = 413  # the server may close the line while we still talk
    assert status == 413
    told = raw(server, "/gradio_api/queue/join", "POST", "Content-Length: 99999999999\r\n")
    assert told[0] == 413 and b"at most 16 MB" in told[1]


def test_three_endpoints_are_named_and_the_others_cannot_be_called_by_name(server: Server) -> None:
    named = httpx.get(server.url + "/gradio_api/info", timeout=30).json()["named_endpoints"]
    assert set(named) == {"/inspect", "/distill", "/decode"}
    config = httpx.get(server.url + "/config", timeout=30).json()
    private = [one for one in config["dependencies"] if one["api_visibility"] != "public"]
    assert private
    for one in private:
        answer = httpx.post(f"{server.url}/gradio_api/call/{one['api_name']}", json={"data": []}, timeout=30)
        assert answer.status_code in (404, 422), one["api_name"]
    unload = [one["id"] for one in config["dependencies"] if any(t[1] == "unload" for t in one["targets"])]
    assert unload
    for number in unload:
        body = {"data": [], "fn_index": number, "session_hash": "s"}
        assert httpx.post(server.url + "/gradio_api/queue/join", json=body, timeout=30).status_code == 422


# --- one visitor and another ------------------------------------------------------------------------------------------


class Visitor:
    """A page's side of the talk with the server, without a browser."""

    def __init__(self, server: Server, session: str) -> None:
        self.server, self.session = server, session
        self.client = httpx.Client(base_url=server.url, timeout=60)
        self.config = self.client.get("/config").json()

    def run(self, panel: str, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Trigger a panel's run; what the panel was told, step by step."""
        body = {"data": [], "fn_index": event(self.config, panel), "session_hash": self.session, "event_data": data}
        joined = self.client.post("/gradio_api/queue/join", json=body)
        assert joined.status_code == 200, joined.text
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as lines:
            messages = [json.loads(line[6:]) for line in lines.iter_lines() if line.startswith("data: ")]
        return [m for m in messages if m["msg"] in ("process_generating", "process_completed")]

    def ask(self, prompt: str) -> dict[str, Any]:
        """A question's result as the panel gets it."""
        last = self.run(
            "inspector", {"run": f"run-{self.session}", "question": {"prompt": prompt, "max_new_tokens": 8}}
        )
        return last[-1]["output"]["data"][0]["result"]

    def serve(self, panel: str, name: str, data: Any) -> Any:
        body = {"component_id": component(self.config, panel), "fn_name": name, "data": data}
        body["session_hash"] = self.session
        return self.client.post("/gradio_api/component_server", json=body).json()

    def stay(self) -> Any:
        """The line that a page keeps open as long as it is."""
        return self.client.stream("GET", f"/gradio_api/heartbeat/{self.session}")


def until(found: Any, seconds: float = 30) -> None:
    import time

    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def test_what_a_visitor_made_is_gone_when_they_leave_and_nobody_elses_is(server: Server) -> None:
    alice, bob = Visitor(server, "alice1"), Visitor(server, "bob2")
    with bob.stay() as staying:
        beat_of_staying = staying.iter_lines()  # dropped, it would close the line
        next(beat_of_staying)
        of_bob = bob.ask("Bob's question?")["id"]
        with alice.stay() as line:
            beat_of_line = line.iter_lines()  # dropped, it would close the line
            next(beat_of_line)
            of_alice = alice.ask("Alice's question?")["id"]
            request = {"steps": 1, "data": "uploaded", "text": '{"prompt": "a", "response": "b"}'}
            alice.run("distiller", {"run": "run-of-alice", "request": request})
            assert "Alice's" in alice.serve("inspector", "export", {"id": of_alice, "kind": "json"})["text"]
            assert any("data.jsonl" in name for name in server.files())
        until(lambda: "error" in alice.serve("inspector", "export", {"id": of_alice, "kind": "json"}))
        until(lambda: not any("data.jsonl" in name for name in server.files()))
        assert alice.serve("distiller", "log", {"run": "run-of-alice", "from": 0})["events"] == "[]"
        assert "Bob's" in bob.serve("inspector", "export", {"id": of_bob, "kind": "json"})["text"]


def test_guessing_names_opens_nothing(server: Server) -> None:
    alice, mallory = Visitor(server, "alice3"), Visitor(server, "mallory4")
    with alice.stay() as line:
        beat_of_line = line.iter_lines()  # dropped, it would close the line
        next(beat_of_line)
        result = alice.ask("What is my secret?")
        assert len(result["id"]) >= 20, "too long to guess"
        for guess in ("", "0", result["id"][:-1], result["id"] + "x", "recorded:../x", result["id"].swapcase(), "*"):
            told = mallory.serve("inspector", "export", {"id": guess, "kind": "json"})
            assert set(told) == {"error"}, guess
        for key in ("a", "0" * 22, "..", "%2e%2e", "*"):
            assert mallory.client.get(f"/kept/{key}/0.zip").status_code == 404
        assert mallory.serve("inspector", "stop", "run-alice") is False
        told = []
        with mallory.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "alice"}) as answer:
            try:
                told += answer.iter_lines()
            except httpx.RemoteProtocolError:  # the server hangs up on a name that it does not know
                pass
        assert "secret" not in "".join(told)


def test_another_site_may_not_call_in_a_visitors_name(server: Server) -> None:
    """A page elsewhere can send a request; without this header its browser keeps the answer from it."""
    headers = {"origin": "https://evil.example", "host": f"127.0.0.1:{server.port}"}
    answer = httpx.get(server.url + "/config", headers=headers, timeout=30)
    assert "access-control-allow-origin" not in answer.headers


def test_nothing_of_a_visit_is_in_the_log(server: Server) -> None:
    mark = "mark-5582"
    visitor = Visitor(server, "careful5")
    with visitor.stay() as line:
        beat_of_line = line.iter_lines()  # dropped, it would close the line
        next(beat_of_line)
        result = visitor.ask(f"My number is {mark}")
        for kind in ("json", "csv", "html", mark):
            visitor.serve("inspector", "export", {"id": result["id"], "kind": kind})
        visitor.serve("inspector", "open_trace", mark)
        visitor.serve("inspector", "open_trace", result["trace"].replace("8", mark))
        visitor.run("inspector", {"run": mark, "question": {"prompt": mark, "source": mark}})
        visitor.run("distiller", {"run": mark, "request": {"data": "pasted", "responses": "teacher", "text": mark}})
        visitor.run("distiller", {"run": mark, "request": {"data": "uploaded", "text": mark}})
        visitor.client.post("/gradio_api/call/inspect", json={"data": [mark] * 13})
        visitor.client.post("/gradio_api/call/inspect", json={"data": [mark]})
        visitor.client.post("/gradio_api/queue/join", content=mark.encode())
        visitor.client.get(f"/{mark}?{mark}")
    assert mark not in server.log()


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_after_a_restart_nothing_of_a_visit_is_left(tmp_path: Path, how: signal.Signals) -> None:
    request = {"steps": 1, "data": "uploaded", "text": '{"prompt": "a", "response": "b"}'}
    with Server(tmp_path, "--stand-in") as first:
        Visitor(first, "x").run("distiller", {"run": "r", "request": request})
        assert any("data.jsonl" in name for name in first.files())
        first.end(how)
    with Server(tmp_path, "--stand-in") as second:
        Visitor(second, "y").run("distiller", {"run": "r", "request": {"steps": 1}})
        assert not any("data.jsonl" in name for name in second.files())


# --- behind a proxy, below a path -------------------------------------------------------------------------------------

PREFIX = "/some/path"


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[str]:
    """The page below PREFIX: a proxy that takes the prefix off, as most do."""
    with Server(tmp_path, "--stand-in", GRADIO_ROOT_PATH=PREFIX) as server:

        class Proxy(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                if not self.path.startswith(PREFIX + "/"):
                    self.send_response(204 if self.path == "/favicon.ico" else 404)  # a browser asks by itself
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "content-length")}
                target = server.url + self.path.removeprefix(PREFIX)
                with httpx.stream(self.command, target, content=body, headers=headers, timeout=120) as answer:
                    self.send_response(answer.status_code)
                    for name, value in answer.headers.items():
                        if name not in ("connection", "transfer-encoding", "content-length"):
                            self.send_header(name, value)
                    self.send_header("connection", "close")
                    self.end_headers()
                    try:
                        for piece in answer.iter_raw():
                            self.wfile.write(piece)
                            self.wfile.flush()
                    except (OSError, httpx.TransportError):
                        pass  # the browser has left, or the server ends
                self.close_connection = True

            do_GET = do_POST = do_HEAD = pass_on

            def log_message(self, *_: Any) -> None:
                pass

        proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}{PREFIX}/"
        proxy.shutdown()
        proxy.server_close()


@pytest.mark.browser
def test_the_page_works_below_a_path(proxied: str, visit: Any) -> None:
    one = visit(address=proxied)
    refused: list[str] = []
    one.page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
    one.open()
    one.wait_for_state("ready")
    one.page.locator(".sk-ask-text").fill("Does it work below a path?")
    before = one.shown()
    one.page.locator(".sk-run").first.click()
    one.page.wait_for_function("n => Number(document.querySelector('.sk-panel').dataset.shown) > n", arg=before)
    assert all(PREFIX in url for url in one.requests if url.startswith("http"))
    assert refused == []


# --- many visitors, in short (tests/bench has the long versions) ----------------------------------------------------


@pytest.mark.parametrize("seconds", [6, pytest.param(30, marks=pytest.mark.long)])
def test_eight_visitors_at_once_each_get_their_own_answer(tmp_path: Path, seconds: float) -> None:
    with Server(tmp_path, "--stand-in", SPACE_ID="someone/lab", STAND_IN_SECONDS="0.05") as one:
        report = load_page.load(one, visitors=8, seconds=seconds)
    assert report.errors == [] and report.mixed_up == 0, report
    assert report.answers >= 8 and report.exports >= 8, report
    assert "Traceback" not in one.log()


@pytest.mark.long  # half a minute of waiting for idle threads to go
def test_thirty_visits_leave_no_threads_behind(tmp_path: Path) -> None:
    with Server(tmp_path, "--stand-in", SPACE_ID="someone/lab") as one:
        report = drop_sessions.drop(one, sessions=30, at_once=10)
    assert report.threads_after <= report.threads_before * 1.05 + 1, report
    assert report.memory_after <= report.memory_before * 1.10 + 10, report
