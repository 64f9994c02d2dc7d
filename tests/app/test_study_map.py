"""The Map's numbers against plain loops over the table, and what it does with asked-for nonsense."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from app.panels import table
from app.study import FOLDER, Study, study
from app.tabs.map import first_picture
from speckd.runs.statistics import FEWEST, Difference, effects, paired
from speckd.words import STUDY_CONTROLS, STUDY_FIGURES
from tests.app import raw_study


@pytest.mark.parametrize("control", STUDY_CONTROLS)
def test_every_cell_of_the_map_is_what_plain_loops_find(control: str) -> None:
    shown = json.loads(study().map(control))
    told = {"helps": "helps", "hurts": "hurts", "none": "unseen", "few": "few"}
    mine = sorted(
        (arm["gate"], figure, cell["n"], round(cell["mean"], 4), told[cell["verdict"]])
        for arm in shown["arms"] for figure, cell in arm["figures"].items()
    )  # fmt: skip
    theirs = sorted(
        (cell["gate"], cell["figure"], cell["n"], round(cell["mean"], 4), cell["verdict"])
        for cell in raw_study.cells(control)
    )
    assert len(mine) == len(theirs) == shown["n_cells"] > 0
    for one, other in zip(mine, theirs, strict=True):
        assert one[:3] == other[:3] and one[4] == other[4] and one[3] == pytest.approx(other[3], abs=2e-4), (one, other)


def test_a_cell_has_its_runs_with_curves_answers_and_commands() -> None:
    shown = json.loads(study().map())
    for arm in shown["arms"]:
        cell = study().cell(arm["key"])
        assert len(cell["seeds"]) >= max(one["n"] for one in arm["figures"].values())
        for pair in cell["seeds"]:
            for side, gate in (("arm", arm["gate"]), ("control", "none")):
                words = pair[side]["command"].split()
                assert words[words.index("--gate") + 1] == gate
                assert (
                    ("--seed" not in words)
                    if pair["seed"] == 0
                    else words[words.index("--seed") + 1] == str(pair["seed"])
                )
                assert len(pair[side]["held_out"]["step"]) > 1 and len(pair[side]["texts"]["greedy"]) == 3
        assert len(cell["prompts"]) == 3
        json.dumps(cell, allow_nan=False)


def test_growth_of_tar_is_shown_where_it_was_often_looked_at() -> None:
    growth = json.loads(study().beside())["growth"]
    assert (
        all(one["n"] >= 5 for arm in ("plain", "gated") for one in growth[arm]) and min(map(len, growth.values())) > 1
    )


def test_what_is_not_on_the_map_is_refused_in_a_sentence() -> None:
    for control in (None, "topk", 7, ["none"], "../none"):
        with pytest.raises(ValueError, match=r"^Nothing is held against"):
            study().map(control)
    for key in (None, 3, "", "a/b", "x" * 10_000, {"key": 1}):
        with pytest.raises(ValueError, match="no such cell"):
            study().cell(key)


def test_a_broken_table_leads_to_one_sentence_and_broken_curves_to_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("runs.csv", "confirm.toml", "screen.toml"):
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / "curves.jsonl").write_text('{"cell": "a"\nnot JSON\n[1]\n', encoding="utf-8")
    known = Study(tmp_path)
    arm = json.loads(known.map())["arms"][0]
    assert "held_out" not in known.cell(arm["key"])["seeds"][0]["arm"]
    assert json.loads(known.beside())["growth"] == {"plain": [], "gated": []}
    text = (tmp_path / "runs.csv").read_text(encoding="utf-8")
    (tmp_path / "runs.csv").write_text(text[:5000], encoding="utf-8")
    monkeypatch.setattr("app.tabs.map.study", lambda: study(tmp_path))
    told = first_picture()
    assert set(told) == {"error"} and told["error"].startswith("runs.csv")


def test_a_table_that_grew_is_read_anew(tmp_path: Path) -> None:
    for name in ("runs.csv", "curves.jsonl", "confirm.toml", "screen.toml"):
        shutil.copy(FOLDER / name, tmp_path)
    whole = (tmp_path / "runs.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "runs.csv").write_text("".join(whole[:-1]), encoding="utf-8")
    first = study(tmp_path)
    assert study(tmp_path) is first and len(first.rows) == len(whole) - 2
    (tmp_path / "runs.csv").write_text("".join(whole), encoding="utf-8")
    assert len(study(tmp_path).rows) == len(whole) - 1


def test_pairs_are_of_one_machine_and_a_seed_counts_once() -> None:
    rows = [
        {"seed": seed, "device": device, "gate": gate, "acceptance": value, "part": "core"}
        for seed, device, gate, value in (
            (1, "a", "none", 0.1), (1, "a", "topk", 0.2), (1, "b", "none", 0.5), (1, "b", "topk", 0.8),
            (2, "a", "none", 0.3), (2, "b", "topk", 0.9),
        )
    ]  # fmt: skip
    found = paired(rows, "acceptance", {"gate": "topk"}, {"gate": "none"})
    assert found == {1: pytest.approx(0.2)}, "seed 2 was never run on one machine; seed 1 twice"


def test_too_few_pairs_are_no_part_of_the_correction() -> None:
    rows = [
        {"seed": seed, "gate": gate, "acceptance": 0.1 * seed + (0.05 + 0.01 * seed if gate == "topk" else 0)}
        for seed in range(FEWEST - 1) for gate in ("none", "topk")
    ]  # fmt: skip
    (cell,) = effects(rows, ["acceptance"], setting=("gate_of_none",))
    assert cell["verdict"] == "few" and cell["q"] != cell["q"]


def test_differences_that_are_all_alike_are_judged_by_their_signs() -> None:
    assert Difference.of([0.25] * 4).p == 2 * 0.5**4 and Difference.of([0.0] * 4).p == 1


def test_every_word_of_the_study_is_in_the_table_of_each_language() -> None:
    said = set()
    for part in table()["study"].values():
        for one in part.values():
            said |= {one} if isinstance(one, str) else {one["label"], *one.get("values", {}).values()}
            said |= {one["says"]} if isinstance(one, dict) and "says" in one else set()
    rows = Study().rows  # parts and students are told by their own names
    said |= {part for row in rows for part in str(row["part"]).split("+")} | {str(row["student"]) for row in rows}
    for language in table()["languages"]:
        assert language["code"] == "en" or said <= set(language["page"]), said - set(language["page"])
    assert set(raw_study.FIGURES) == set(STUDY_FIGURES)
    assert {name for name, one in STUDY_FIGURES.items() if one["better"] == "lower"} == raw_study.LOWER


def test_who_asks_while_the_curves_are_read_gets_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    known, other, read = Study(), [], json.loads

    def slow(line: str) -> Any:
        if not other:
            other.append(0)
            thread = threading.Thread(target=lambda: other.append(len(known.curves())))
            thread.start()
            thread.join(60)
        return read(line)

    monkeypatch.setattr(json, "loads", slow)
    assert other == [] and len(known.curves()) == other[-1] > 100
