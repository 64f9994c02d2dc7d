"""The command line as a person meets it: real processes for exit codes, the functions for the words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import speckd
from speckd.cli.main import main
from speckd.cli.terminal import printable, strip, summary, table


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "speckd", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture
def pair_options(tiny_folders: tuple[Path, Path]) -> list[str]:
    return ["--teacher", str(tiny_folders[0]), "--student", str(tiny_folders[1]), "--device", "cpu"]


def test_inspect_prints_a_strip_and_writes_what_is_asked_for(
    pair_options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = {kind: tmp_path / f"trace.{kind}" for kind in ("json", "csv", "html")}
    outputs = [part for kind, path in files.items() for part in (f"--{kind}", str(path))]
    assert main(["inspect", "Why?", "--response", "No reason.", *pair_options, "--table", *outputs]) == 0
    told = capfd.readouterr()
    assert told.err == ""  # no terminal: no bars
    trace = speckd.Trace.from_json(files["json"])
    gate = speckd.TopK()
    assert strip(trace, gate) in told.out
    assert f"TAR {trace.tar(gate):.3f}" in told.out
    assert speckd.Trace.from_csv(files["csv"]) == trace
    assert files["html"].read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "  "], "The prompt is empty"),
        (["inspect", "x", "--gate", "speck", "--k", "51"], "choose a whole number from 1 to 50"),
        (["inspect", "x", "--beta", "1.5"], "beta is 1.5"),
        (["inspect", "x", "--divergence", "kl"], "Choose one of: forward_kl"),
        (["inspect", "x", "--temperature", "0"], "choose a number above 0"),
        (["inspect", "x", "--csv", "no/such/folder/x.csv"], "its folder does not exist"),
        (["inspect", "x", "--teacher", "./nowhere"], "There is no folder"),
        (["inspect", "x", "--device", "toaster"], "is not a device"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("speckd: ") and error.count("\n") == 1


@pytest.mark.slow
def test_a_mistake_ends_a_real_process_with_code_2_and_no_traceback() -> None:
    done = run("inspect", "x", "--k", "0")
    assert done.returncode == 2
    assert done.stderr == "speckd: k is 0: choose a whole number, 1 or more.\n"


def test_a_failed_write_keeps_the_old_file(
    pair_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trace.json").mkdir()  # a folder stands where the file should go
    assert main(["inspect", "Why?", "--response", "No.", *pair_options, "--json", str(tmp_path / "trace.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "Rejected tokens stand in brackets" in text and "examples:" in text


def test_the_strip_marks_rejected_tokens_without_colour_and_wraps(tiny_trace: speckd.Trace) -> None:
    gate = speckd.TopK(k=3)
    text = strip(tiny_trace, gate, width=20)
    rejected = int((~tiny_trace.accepted(gate)).sum())
    assert text.count("|") == rejected
    assert max(len(line) for line in text.splitlines()) <= 20
    assert "\x1b" not in text


def test_the_table_has_one_line_a_token_with_the_traces_numbers(tiny_trace: speckd.Trace) -> None:
    gate = speckd.SpecK(k=2)
    lines = table(tiny_trace, gate, "tvd").splitlines()
    assert len(lines) == tiny_trace.n_tokens + 1
    assert [line.endswith("accepted") for line in lines[1:]] == tiny_trace.accepted(gate).tolist()


def test_the_summary_says_what_the_functions_say(tiny_trace: speckd.Trace) -> None:
    gate = speckd.TopK(k=4)
    text = summary(tiny_trace, gate, "jsd")
    assert f"TAR {tiny_trace.tar(gate):.3f}" in text
    assert f"{tiny_trace.loss(gate, 'jsd'):.3g} nats gated" in text


def test_text_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\u202ec\nd\x00") == "a\\x1b[2Jb\\u202ec⏎d\\x00"
