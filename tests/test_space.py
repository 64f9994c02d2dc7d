"""The project as a Hugging Face Space: its front matter, what is uploaded, and how failures are said."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from app import space
from app.settings import ON_A_SPACE
from speckd.packaged import HUB_TEACHER, HUB_TEACHER_REVISION
from tests import hygiene, space_check

ROOT = Path(__file__).parents[1]

# https://huggingface.co/docs/hub/spaces-config-reference: every key, and what it may hold.
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
HARDWARE = {
    "cpu-basic", "cpu-upgrade", "t4-small", "t4-medium", "l4x1", "l4x4", "a10g-small", "a10g-large", "a10g-largex2",
    "a10g-largex4", "a100-large", "v5e-1x1", "v5e-2x2", "v5e-2x4",
}  # fmt: skip
KEYS: dict[str, Any] = {
    "title": str,
    "emoji": str,
    "colorFrom": COLOURS,
    "colorTo": COLOURS,
    "sdk": {"gradio", "docker", "static"},
    "python_version": re.compile(r"3\.\d+(\.\d+)?"),
    "sdk_version": re.compile(r"\d+\.\d+\.\d+"),
    "suggested_hardware": HARDWARE,
    "suggested_storage": {"small", "medium", "large"},
    "app_file": str,
    "app_build_command": str,
    "app_port": int,
    "base_path": re.compile(r"/.*"),
    "fullWidth": bool,
    "header": {"mini", "default"},
    "short_description": re.compile(r".{1,60}"),
    "models": list,
    "datasets": list,
    "tags": list,
    "thumbnail": re.compile(r"https://\S+"),
    "pinned": bool,
    "hf_oauth": bool,
    "hf_oauth_scopes": list,
    "hf_oauth_expiration_minutes": int,
    "hf_oauth_authorized_org": (str, list),
    "disable_embedding": bool,
    "startup_duration_timeout": re.compile(r"\d+[mh]"),
    "custom_headers": dict,
    "preload_from_hub": list,
    "license": str,
}
# https://huggingface.co/docs/hub/spaces-zerogpu, with huggingface/hub-docs pull requests 2153 and 2763
ZERO_GPU_PYTHON = {"3.10.13", "3.12.12"}
ZERO_GPU_TORCH = {"2.8.0", "2.9.1", "2.10.0", "2.11.0", "2.12.1", "2.13.0"}


def front_matter(card: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert match
    return yaml.safe_load(match.group(1))


def allowed(value: Any, rule: Any) -> bool:
    if isinstance(rule, re.Pattern):
        return isinstance(value, str) and rule.fullmatch(value) is not None
    return value in rule if isinstance(rule, set) else isinstance(value, rule)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "folder"
    assert space.build(folder, "someone/speckd-lab") < 60_000_000
    return folder


def test_front_matter_holds_what_the_reference_allows(built: Path) -> None:
    for card in (ROOT / "README.md", built / "README.md"):
        wrong = {
            key: value
            for key, value in front_matter(card.read_text(encoding="utf-8")).items()
            if key not in KEYS or not allowed(value, KEYS[key])
        }
        assert wrong == {}


def test_front_matter_names_what_a_visitor_and_the_hub_look_for(built: Path) -> None:
    text = (built / "README.md").read_text(encoding="utf-8")
    card = front_matter(text)
    needed = {
        "title", "sdk", "sdk_version", "python_version", "app_file", "short_description", "models", "preload_from_hub",
        "tags", "license", "thumbnail", "startup_duration_timeout", "suggested_hardware",
    }  # fmt: skip
    assert needed <= set(card)
    assert "https://arxiv.org/abs/2510.24021" in text and "arxiv:2510.24021" in card["tags"]
    prefix = "https://huggingface.co/spaces/someone/speckd-lab/resolve/main/"
    assert card["thumbnail"].startswith(prefix)
    assert (built / card["thumbnail"].removeprefix(prefix)).is_file()
    assert card["title"] == space.TITLE


def test_models_of_the_front_matter_are_those_that_a_space_may_load() -> None:
    card = front_matter((ROOT / "README.md").read_text(encoding="utf-8"))
    listed = {name for pair in ON_A_SPACE.pairs for name in (pair.teacher, pair.student)}
    assert set(card["models"]) == {HUB_TEACHER, *listed}
    revisions = {HUB_TEACHER: HUB_TEACHER_REVISION}
    for pair in ON_A_SPACE.pairs:
        revisions |= {pair.teacher: pair.teacher_revision, pair.student: pair.student_revision}
    for line in card["preload_from_hub"]:
        repository, files, revision = line.split(" ")
        assert revisions[repository] == revision and files


def test_python_and_torch_are_versions_that_zero_gpu_lists() -> None:
    card = front_matter((ROOT / "README.md").read_text(encoding="utf-8"))
    assert card["python_version"] in ZERO_GPU_PYTHON
    constraints = (ROOT / "constraints.txt").read_text()
    assert re.search(r"^torch==(.+)$", constraints, re.MULTILINE)[1] in ZERO_GPU_TORCH  # type: ignore[index]
    torch = next(line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("torch"))
    assert any(version in Requirement(torch).specifier for version in ZERO_GPU_TORCH)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"ZeroGPU is\s+unverified", readme), "until someone runs it there"


def test_pinned_packages_run_on_the_python_of_the_front_matter() -> None:
    from importlib.metadata import metadata

    version = front_matter((ROOT / "README.md").read_text(encoding="utf-8"))["python_version"]
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name = Requirement(line).name
            assert SpecifierSet(metadata(name).get("Requires-Python") or "").contains(version), name
    assert requires("gradio"), "the metadata is there to be asked"


# --- what is uploaded -----------------------------------------------------------------------------------------------


def test_a_space_gets_the_page_and_nothing_else(built: Path) -> None:
    names = {path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file()}
    assert names == set(space.files())
    assert {"app.py", "requirements.txt", "app/main.py", "speckd/html/view.css", "app/panels/mount.js"} <= names
    assert {"assets/students/young/adapter_model.safetensors", "assets/responses/train.jsonl"} <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"README.md", "LICENSE", "NOTICE", "app.py", "requirements.txt", "app", "speckd", "assets"}
    assert not [name for name in names if "/." in name or "__pycache__" in name or name.endswith((".pyc", ".sh"))]


def test_no_file_of_the_packages_is_forgotten(built: Path) -> None:
    listing = subprocess.run(["git", "ls-files", "-z", "app", "speckd"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    tracked = [name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert tracked
    assert [name for name in tracked if not (built / name).is_file()] == []


def test_every_shipped_trace_run_and_student_is_there(built: Path) -> None:
    for folder in ("traces", "runs", "students/healed", "students/young"):
        for path in (ROOT / "assets" / folder).iterdir():
            if path.suffix in (".json", ".safetensors"):
                assert (built / "assets" / folder / path.name).read_bytes() == path.read_bytes()


def test_links_of_the_card_lead_somewhere_in_the_space(built: Path) -> None:
    card = (built / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)|(?:src|srcset)=\"([^\"]+)\"", card)
    local = [target for pair in targets for target in pair if target and "://" not in target]
    assert local
    assert [target for target in local if not (built / target).exists()] == []


def project(tmp_path: Path) -> Path:
    for name in space.FILES:
        (tmp_path / name).write_text("---\ntitle: x\n---\n")
    for folder in space.FOLDERS:
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def test_a_file_that_needs_lfs_is_refused_by_name(tmp_path: Path) -> None:
    root = project(tmp_path)
    (root / "assets" / "traces" / "huge.json").write_bytes(b" " * (space.LARGEST + 1))
    with pytest.raises(space.CannotDeploy, match=r"huge\.json has 10\.0 MB.*LFS"):
        space.files(root)


def test_links_hidden_and_foreign_files_stay_at_home(tmp_path: Path) -> None:
    root = project(tmp_path)
    (root / "app" / "page.py").write_text("")
    (root / "app" / ".env").write_text("HF_TOKEN=x")
    (root / "app" / "notes.txt").write_text("")
    (root / "app" / "link.py").symlink_to("/etc/passwd")
    assert [name for name in space.files(root) if name.startswith("app/")] == ["app/page.py"]


def test_a_checkout_with_a_hole_and_a_folder_in_use_are_refused(tmp_path: Path) -> None:
    root = project(tmp_path / "one") if (tmp_path / "one").mkdir() is None else tmp_path
    (root / "LICENSE").unlink()
    with pytest.raises(space.CannotDeploy, match="LICENSE is missing"):
        space.build(tmp_path / "new", root=root)
    with pytest.raises(space.CannotDeploy, match="not empty"):
        space.build(root)


# --- uploading, to a Hub that a test plays --------------------------------------------------------------------------


@dataclass
class Hub:
    """The few calls of the Hub that an upload makes, answered from memory."""

    url: str = ""
    there: list[str] = field(default_factory=list)
    status: int = 200
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    other: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes) -> Any:
        path = path.split("?")[0]
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return {"url": f"{self.url}/spaces/someone/lab", "id": "someone/lab"}
        if path == "/api/spaces/someone/lab/preupload/main":
            asked = json.loads(body)["files"]
            return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
        if path == "/api/spaces/someone/lab/commit/main":
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    self.deleted.append(line["value"]["path"])
            return {"commitUrl": f"{self.url}/spaces/someone/lab/commit/0", "commitOid": "0" * 40, "success": True}
        if path.startswith("/api/spaces/someone/lab/tree/main"):
            return [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in self.there]
        if path.startswith("/api/spaces/someone/lab"):
            return {"id": "someone/lab", "sha": "0" * 40, "siblings": [{"rfilename": name} for name in self.there]}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path != "/api/agent-harnesses":
            self.other.append(f"{method} {path}")
        return {}


@pytest.fixture
def hub() -> Iterator[Hub]:
    one = Hub()

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            if "chunked" in self.headers.get("transfer-encoding", ""):
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if "/api/agent-harnesses" not in self.path:  # the client asks it for itself, and sends no token
                one.tokens.add(self.headers.get("authorization", ""))
            answer = one.answer(self.command, self.path, body) if one.status == 200 else {"error": "no"}
            text = json.dumps(answer).encode()
            self.send_response(one.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_HEAD = reply

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield one
    server.shutdown()
    server.server_close()


def upload(name: str, tmp_path: Path, url: str = "http://127.0.0.1:9", token: str | None = "of-a-test") -> Any:
    """`python -m app.space upload` as a process: the Hub's client reads its variables when it is imported."""
    names = ("PATH", "LANG", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    environment |= {"HOME": str(tmp_path), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "no_proxy": "127.0.0.1"}
    if token is not None:
        environment["HF_TOKEN"] = token
    command = [sys.executable, "-m", "app.space", "upload", name]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_upload_sends_exactly_the_folder_and_removes_the_rest(hub: Hub, tmp_path: Path) -> None:
    hub.there = [".gitattributes", "README.md", "speckd/__init__.py", "app/gone.py"]
    run = upload("someone/lab", tmp_path, hub.url)
    assert run.returncode == 0, run.stderr
    assert f"{hub.url}/spaces/someone/lab" in run.stdout
    assert hub.created[0]["type"] == "space" and hub.created[0]["sdk"] == "gradio"
    assert set(hub.files) == set(space.files())
    assert "spaces/someone/lab/resolve" in hub.files["README.md"].decode()
    assert hub.files["requirements.txt"] == (ROOT / "requirements.txt").read_bytes()
    assert hub.deleted == ["app/gone.py"]
    assert hub.tokens == {"Bearer of-a-test"} and hub.other == []


def test_upload_never_overwrites_somebody_elses_space(hub: Hub, tmp_path: Path) -> None:
    hub.there = ["README.md", "app.py", "weights.bin"]
    run = upload("someone/lab", tmp_path, hub.url)
    assert run.returncode == 2 and "holds something else" in run.stderr
    assert hub.files == {} and hub.deleted == []


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_hub_that_says_no_is_one_sentence(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.status = status
    run = upload("someone/lab", tmp_path, hub.url)
    assert run.returncode == 2 and "Traceback" not in run.stderr and len(run.stderr.splitlines()) == 1
    assert ("write access" if status < 500 else "refused") in run.stderr
    assert "of-a-test" not in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "token", "words"),
    [
        ("", "x", "owner/name"),
        ("lab", "x", "owner/name"),
        ("a/b/c", "x", "owner/name"),
        ("../lab", "x", "owner/name"),
        ("a-/lab", "x", "owner/name"),
        ("someone/la b", "x", "owner/name"),
        ("someone/lab", None, "hf auth login"),
        ("someone/lab", "x", "cannot be reached"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(tmp_path: Path, name: str, token: str | None, words: str) -> None:
    run = upload(name, tmp_path, token=token)
    assert run.returncode == 2 and words in run.stderr
    assert "Traceback" not in run.stderr and len(run.stderr.splitlines()) == 1


# --- the rehearsal --------------------------------------------------------------------------------------------------


def test_a_rehearsal_has_a_spaces_variables_and_none_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("SPECKD_CACHE", "/somewhere")
    environment = space_check.space_environment(tmp_path, 7860)
    assert environment["SPACE_ID"] and environment["SYSTEM"] == "spaces" and environment["HF_HUB_OFFLINE"] == "1"
    assert environment["HOME"].startswith(str(tmp_path)) and environment["PORT"] == "7860"
    assert not {"HF_TOKEN", "SPECKD_CACHE", "PYTHONPATH", "VIRTUAL_ENV"} & set(environment)


def test_the_interpreter_of_a_rehearsal_runs() -> None:
    assert subprocess.run([space_check.wanted_python(), "-c", ""]).returncode == 0


# --- hygiene --------------------------------------------------------------------------------------------------------


def test_a_reported_vulnerability_fails_the_check_and_a_silent_service_does_not() -> None:
    clean = {"name": "a", "version": "1", "vulns": []}
    found = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1"}]}
    unknown = {"name": "c", "skip_reason": "not found"}
    good, words = hygiene.judged(json.dumps({"dependencies": [clean, unknown]}), "")
    assert good and "1 of 2" in words
    good, words = hygiene.judged(json.dumps({"dependencies": [clean, found]}), "")
    assert not good and "b 2: PYSEC-1" in words
    good, words = hygiene.judged(json.dumps({"dependencies": [unknown]}), "")
    assert good and "NOT DONE" in words
    good, words = hygiene.judged("", "ERROR: ConnectionError: Max retries exceeded")
    assert good and "NOT DONE" in words
    good, words = hygiene.judged("", "usage: pip-audit: unrecognized argument")
    assert not good


@pytest.mark.parametrize(
    "line",
    [
        'token = "' + "hf_" + "abcdefghijklmnopqrstuvwxyzABCDEFGH" + '"',
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        'password = "' + "correct" + "horse9battery" + '"',
    ],
)
def test_a_secret_in_a_file_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "file.py").write_text("x = 1\n")
    assert hygiene.secrets(["file.py"], tmp_path)[0]
    (tmp_path / "file.py").write_text(line + "\n")
    good, words = hygiene.secrets(["file.py"], tmp_path)
    assert not good and "file.py" in words


@pytest.mark.parametrize("line", ["hf_" + "abcdefghijklmnopqrstuvwxyzABCDEFGH", "-----BEGIN RSA " + "PRIVATE KEY-----"])
def test_a_secret_in_recorded_text_is_found(tmp_path: Path, line: str) -> None:
    name = "assets/responses/some.jsonl"
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(json.dumps({"response": line}) + "\n")
    good, words = hygiene.secrets([name], tmp_path)
    assert not good and name in words
