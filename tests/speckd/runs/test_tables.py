"""A study's table as a file: what was cut off or altered is said in one sentence, and nothing is made of it."""

from pathlib import Path

import pytest

from speckd.runs.tables import read_table

SHIPPED = Path(__file__).parents[3] / "assets" / "study" / "runs.csv"
TEXT = SHIPPED.read_text(encoding="utf-8")
LINES = TEXT.splitlines(keepends=True)
HEADER, ROW = LINES[0], LINES[1]


def changed(column: str, value: str) -> str:
    """The shipped table's first row with another value in a column."""
    cells = ROW.rstrip("\n").split(",")
    cells[HEADER.rstrip("\n").split(",").index(column)] = value
    return HEADER + ",".join(cells) + "\n"


def test_the_shipped_table_is_whole() -> None:
    rows = read_table(SHIPPED)
    assert len(rows) == len(LINES) - 1 and {type(row["cell"]) for row in rows} == {str}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column 'study'"),
        ("one,two\n1,2\n", "no column 'study'"),
        (TEXT[: len(TEXT) // 2], r"line \d+.*cut off|last line has no end"),
        (TEXT[:-1], "last line has no end"),
        (TEXT[:-40] + "\n", "cut off|command"),
        (HEADER + ROW + ROW, "stands in line 2 already"),
        (HEADER.replace("tar5", "tar1", 1) + ROW, "'tar1' stands there twice"),
        (changed("acceptance", "7.2"), "acceptance is 7.2, expected a number from 0 to 1"),
        (changed("acceptance", "a lot"), "acceptance is 'a lot'"),
        (changed("divergence", "-1"), "divergence is -1"),
        (changed("seed", "first"), "seed is 'first', expected a whole number"),
        (changed("seed", ""), "seed is None"),
        (changed("gate", ""), "gate is empty"),
        (changed("command", "rm -rf /"), "its command is 'rm -rf /'"),
        (HEADER + '"' + ROW, "line"),
    ],
)
def test_what_was_cut_off_or_altered_is_said_in_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=says) as found:
        read_table(path)
    assert "\n" not in str(found.value) and str(found.value).startswith("runs.csv")


def test_what_is_no_text_or_not_there_is_said_too(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_bytes(b"\xff\xfe\x00study")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        read_table(tmp_path / "runs.csv")
    with pytest.raises(ValueError, match=r"cannot be read \(No such file"):
        read_table(tmp_path / "none.csv")


@pytest.mark.parametrize("name", ["4120e9558123", "000000000012", "123456789012"])
def test_a_checksum_that_looks_like_a_number_stays_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(changed("cell", name), encoding="utf-8")
    assert read_table(path)[0]["cell"] == name


def test_a_figure_that_a_broken_run_did_not_reach_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"

    for value in ("", "nan", "inf"):
        path.write_text(changed("divergence", value), encoding="utf-8")
        assert len(read_table(path)) == 1
