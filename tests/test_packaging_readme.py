"""What the README tells a reader to do works as it is written."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_files_that_the_readme_links_to_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)|(?:src|srcset)=\"([^\"]+)\"", README)
    local = [target for pair in targets for target in pair if target and "://" not in target]
    assert local
    assert [target for target in local if not (ROOT / target).exists()] == []


@pytest.mark.packaged
@pytest.mark.slow
def test_python_quick_start_runs_and_writes_a_trace_that_reads_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import speckd

    (code,) = code_blocks("python")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    tar = float(capsys.readouterr().out.split()[0])
    trace = speckd.Trace.from_json(tmp_path / "sky.json")
    assert trace.tar(speckd.TopK(k=5, beta=0.01)) == pytest.approx(tar)


def commands() -> list[str]:
    return [line for block in code_blocks("bash") for line in block.splitlines() if "-m speckd" in line]


@pytest.mark.packaged
@pytest.mark.slow
@pytest.mark.parametrize("all_run", [False, pytest.param(True, marks=pytest.mark.long)])
def test_every_shell_command_of_the_library_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], all_run: bool
) -> None:
    """In one process and one folder, one after another: some read what others write. Without all, the
    training alone runs, of four steps, and the rest is parsed."""
    from speckd.cli.main import main, make_parser

    assert len(commands()) >= 4
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    for line in commands():
        words = shlex.split(line, comments=True)
        assert words[1:3] == ["-m", "speckd"], line
        if words[3:] != ["--help"]:
            make_parser().parse_args(words[3:])
        if not all_run and words[3] != "distill":
            continue
        try:
            code = main(words[3:])
        except SystemExit as ended:  # --help
            code = int(ended.code or 0)
        told = capsys.readouterr()
        assert code == 0 and told.out.strip(), (line, told.err)
