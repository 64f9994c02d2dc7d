"""What the README tells a reader to do works as it is written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


def test_files_that_the_readme_links_to_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)|(?:src|srcset)=\"([^\"]+)\"", README)
    local = [target for pair in targets for target in pair if target and "://" not in target]
    assert local
    assert [target for target in local if not (ROOT / target).exists()] == []


@pytest.mark.packaged
@pytest.mark.slow
def test_python_quick_start_runs_and_writes_a_trace_that_reads_back(tmp_path: Path) -> None:
    import speckd

    (code,) = code_blocks("python")
    finished = run([sys.executable, "-c", code], tmp_path)
    assert finished.returncode == 0, finished.stderr
    tar = float(finished.stdout.split()[0])
    trace = speckd.Trace.from_json(tmp_path / "sky.json")
    assert trace.tar(speckd.TopK(k=5, beta=0.01)) == pytest.approx(tar)


@pytest.mark.packaged
@pytest.mark.slow
def test_every_shell_command_of_the_library_succeeds(tmp_path: Path) -> None:
    lines = [line for block in code_blocks("bash") for line in block.splitlines() if "-m speckd" in line]
    assert lines
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    for line in lines:
        _, *arguments = shlex.split(line, comments=True)
        finished = run([sys.executable, *arguments], tmp_path)
        assert finished.returncode == 0 and finished.stdout.strip(), (line, finished.stderr)
