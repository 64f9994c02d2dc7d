"""Studies: plans, cells, the table, and what is measured of a trained student."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import speckd
from speckd.data import encode_prompt
from speckd.runs.bench import Machine, prepare
from speckd.runs.cells import compact, read_row, run_cell
from speckd.runs.figures import Task, chosen_right, expected_block, greedy_rounds, is_right, repetition, steadiness
from speckd.runs.plans import Plan, read_plan
from speckd.runs.study import all_cells, run_study, write_results
from speckd.runs.tables import merge_tables, read_table, write_table
from speckd.runs.tasks import TASKS
from speckd.runs.texts import with_noise
from tests import training_pair

pytestmark = pytest.mark.slow  # it trains: seconds a test


PLAN = """
title = "a try"
[figures]
data = "{data}"
examples = 3
own = 2
longest = 6
tasks = false
panel = 2
curve = 3
[settings]
teacher = "{teacher}"
student = "{student}"
steps = 2
batch_size = 2
warmup = 0
learning_rate = 1e-2
lora_rank = 2
eval_every = 1
[texts.given]
data = "{data}"
[texts.noisy]
data = "{root}/noisy.jsonl"
noise = {{ of = "{data}", share = 0.5 }}
[texts.own]
data = "{data}"
responses = "student"
max_new_tokens = 4
[[part]]
name = "gates"
seeds = [0, 1]
factors = {{ text = ["given"], gate = ["none", "topk:k=5"] }}
[[part]]
name = "texts"
seeds = [0]
factors = {{ text = ["given", "noisy", "own"], gate = ["none"] }}
"""


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    teacher, student = training_pair.save(root)
    data = root / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in training_pair.ROWS[:8]))
    path = root / "try.toml"
    path.write_text(PLAN.format(data=data, teacher=teacher, student=student, root=root))
    return path


@pytest.fixture(scope="module")
def done(plan_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Machine, list[dict[str, Any]]]:
    """The plan, run in this process."""
    plan, machine = read_plan(plan_file), Machine(str(tmp_path_factory.mktemp("out")))
    prepare(machine, plan.cells, plan.texts)
    return plan, machine, [run_cell(machine, cell) for cell in plan.cells]


# --- plans --------------------------------------------------------------------------------------------------------


def test_a_run_that_two_parts_ask_for_is_one_run(plan_file: Path) -> None:
    cells = read_plan(plan_file).cells
    assert len(cells) == 6  # 4 gates and 3 texts, one of them the same
    assert next(cell.parts for cell in cells if cell.settings["seed"] == 0) == ("gates", "texts")


def test_first_seeds_come_before_second_ones(plan_file: Path) -> None:
    assert [cell.settings["seed"] for cell in read_plan(plan_file).cells] == [0, 0, 0, 0, 1, 1]


def test_the_shipped_plans_can_be_read() -> None:
    root = Path(__file__).parents[3] / "assets" / "study"
    sizes = {path.stem: len(read_plan(path).cells) for path in root.glob("*.toml")}
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert f"{sizes['screen']} runs" in readme and f"{sizes['confirm']} runs" in readme


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('name = "gates"', 'nom = "gates"'), "'nom' is no setting of a"),
        (("learning_rate", "learning_pace"), "'learning_pace' is no setting of a run"),
        (('"none", "topk:k=5"', '"nonesuch"'), "'nonesuch' is not a gate"),
        (('text = ["given"]', 'text = ["other"]'), "'other' is not described"),
        (("[[part]]", "[[party]]"), "'party' is no setting of the plan"),
        (('title = "a try"', "title = a try"), "is not TOML"),
    ],
)
def test_a_mistake_in_a_plan_is_named_before_anything_runs(
    plan_file: Path, tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(plan_file.read_text().replace(*change))
    with pytest.raises(ValueError, match=words):
        read_plan(path)


# --- runs ---------------------------------------------------------------------------------------------------------


def test_every_cell_gives_a_row_with_its_figures_and_its_command(done: Any) -> None:
    plan, _, rows = done
    assert [row["status"] for row in rows] == ["done"] * len(plan.cells)
    for row in rows:
        for name in (
            "divergence",
            "acceptance",
            "own_reverse_kl",
            "greedy_teacher_nats",
            "rouge_l",
            "grad_norm_spread",
        ):
            assert isinstance(row[name], float), name
        assert row["acceptance"] == pytest.approx(1 - row["tvd"], abs=1e-4)
        assert row["command"].startswith("python -m speckd distill ")
        assert row["device"] == "cpu" and row["torch"] == torch.__version__


def test_arms_of_a_seed_start_alike_and_a_gate_bites(done: Any) -> None:
    _, machine, rows = done
    curves = {row["cell"]: json.loads((Path(machine.folder) / "cells" / row["cell"] / "curves.json").read_text())
              for row in rows}  # fmt: skip
    plain, gated = (row for row in rows if row["part"].startswith("gates") and row["seed"] == 0)
    starts = [curves[row["cell"]]["held_out"]["divergence"][0] for row in (plain, gated)]
    assert starts[0] == starts[1]
    assert "bite_tokens" not in plain and 0 < gated["bite_tokens"] < 1 and gated["bite_gradient"] > 0
    panel = curves[gated["cell"]]["panel"]
    assert [one["step"] for one in panel] == [0, 1, 2]
    assert panel[0]["kept"]["clip"] == pytest.approx(panel[0]["kept"]["topk"], abs=1e-4)  # one budget for all


def test_the_runs_leave_no_trace_in_the_students_that_come_after(done: Any) -> None:
    plan, machine, rows = done
    again = Machine(machine.folder + "-again")
    prepare(again, plan.cells, plan.texts)
    row = run_cell(again, plan.cells[-1])  # first here, last there
    assert row["divergence"] == rows[-1]["divergence"] and row["own_reverse_kl"] == rows[-1]["own_reverse_kl"]


def test_a_finished_run_is_not_made_again_and_an_interrupted_one_is(done: Any) -> None:
    plan, machine, rows = done
    folder = machine.cell_folder(plan.cells[0])
    stamp = (folder / "row.json").stat().st_mtime_ns
    assert run_cell(machine, plan.cells[0]) == rows[0]
    assert (folder / "row.json").stat().st_mtime_ns == stamp
    kept = (folder / "row.json").read_text()
    (folder / "row.json").unlink()
    (folder / "run").mkdir()
    (folder / "run" / "settings.json").write_text("half of")
    row = run_cell(machine, plan.cells[0])
    assert row["divergence"] == rows[0]["divergence"] and not (folder / "run").exists()
    (folder / "row.json").write_text(kept)


def test_a_run_that_fails_is_a_row_and_not_the_end(done: Any, tmp_path: Path) -> None:
    plan, machine, _ = done
    cell = plan.cells[0]
    broken = replace(cell, name="broken", settings=cell.settings | {"data": str(tmp_path / "no.jsonl")})
    row = run_cell(machine, broken)
    assert row["status"] == "failed: ValueError" and "divergence" not in row


def test_the_table_comes_back_as_it_was(done: Any, tmp_path: Path) -> None:
    plan, machine, rows = done
    assert write_results(machine, plan.cells) == [read_row(machine, cell) for cell in plan.cells]
    table = read_table(Path(machine.folder) / "runs.csv")
    for row, read in zip(rows, table, strict=True):
        assert {name: read[name] for name in row} == row
    other = [{**table[0], "device": "another"}, {**table[1], "divergence": 9.0}]
    merged = merge_tables([table, other])
    assert len(merged) == len(table) + 1 and merged[1]["divergence"] == 9.0
    write_table(tmp_path / "merged.csv", merged)
    assert read_table(tmp_path / "merged.csv") == merged
    lines = (Path(machine.folder) / "curves.jsonl").read_text().splitlines()
    assert [json.loads(line)["cell"] for line in lines] == [cell.name for cell in plan.cells]


@pytest.mark.long
@pytest.mark.slow
def test_processes_give_the_very_rows_of_one_process(done: Any, plan_file: Path, tmp_path: Path) -> None:
    _, _, rows = done
    found = run_study([read_plan(plan_file)], Machine(str(tmp_path / "two")), processes=2)
    for row, other in zip(rows, found, strict=True):
        timing = ("seconds", "figure_seconds")
        assert {n: v for n, v in row.items() if n not in timing} == {n: v for n, v in other.items() if n not in timing}


@pytest.mark.slow
def test_a_dask_cluster_that_is_there_already_gives_the_same_rows(done: Any, plan_file: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    _, _, rows = done
    plan = read_plan(plan_file)
    plan = replace(plan, cells=plan.cells[:2])
    # Its worker lives here, where torch is imported; test-long has a cluster of processes.
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp"
    ) as cluster:
        address = cluster.scheduler_address
        found = run_study([plan], Machine(str(tmp_path / "dask")), engine="dask", address=address)
        assert list(cluster.scheduler.workers), "somebody else's cluster stays"
    assert [row["divergence"] for row in found] == [row["divergence"] for row in rows[:2]]


@pytest.mark.long
@pytest.mark.slow
def test_a_dask_cluster_of_two_workers_gives_the_same_rows(done: Any, plan_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    _, _, rows = done
    plan = read_plan(plan_file)
    plan = replace(plan, cells=plan.cells[:3])
    found = run_study([plan], Machine(str(tmp_path / "dask")), processes=2, engine="dask")
    assert [row["divergence"] for row in found] == [row["divergence"] for row in rows[:3]]
    assert all_cells([plan, plan]) == plan.cells


# --- figures by hand ----------------------------------------------------------------------------------------------


def test_noise_moves_answers_and_loses_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"p{n}", "response": f"r{n}", "finished": n % 2 == 0} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    noisy = with_noise(path, 0.4, seed=3)
    assert [row["prompt"] for row in noisy] == [row["prompt"] for row in rows]
    assert sorted(row["response"] for row in noisy) == sorted(row["response"] for row in rows)
    moved = [row for row, was in zip(noisy, rows, strict=True) if row["response"] != was["response"]]
    assert len(moved) == 4
    assert all(row["finished"] == (int(row["response"][1:]) % 2 == 0) for row in noisy)


def test_greedy_rounds_are_counted_as_speculative_decoding_makes_them() -> None:
    # agreed, agreed, not: one round of three tokens; then four agreed and the teacher's own: one of five
    assert greedy_rounds([True, True, False, True, True, True, True, False], 4) == 2
    assert greedy_rounds([False] * 6, 4) == 6
    assert greedy_rounds([True] * 10, 4) == 2


def test_expected_block_has_its_limits() -> None:
    assert expected_block(0.0, 4) == 1.0 and expected_block(1.0, 4) == 5.0
    assert expected_block(0.5, 4) == pytest.approx(1 + 0.5 + 0.25 + 0.125 + 0.0625)


def test_repetition_counts_what_stood_before() -> None:
    assert repetition([1, 2, 3, 4, 5]) == 0.0
    assert repetition([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)  # 123 231 312 123
    assert repetition([1]) == 0.0


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Paris", True),
        ("The capital of France is Paris.", True),
        ("It is not Parisian", False),
        ("London. But Paris is nice.", False),
    ],
)
def test_a_task_is_judged_by_whole_words_of_the_first_sentence(answer: str, right: bool) -> None:
    assert is_right(Task("fact", "", "Paris"), answer) is right


def test_a_task_may_be_written_in_any_script() -> None:
    assert is_right(Task("fact", "", "Париж"), "Столица Франции - Париж.")
    assert not is_right(Task("fact", "", "Париж"), "Лондон. Но и Париж хорош.")
    assert is_right(Task("fact", "", "巴黎"), "法国的首都是巴黎。") and not is_right(
        Task("fact", "", "巴黎"), "伦敦。巴黎"
    )
    assert not is_right(Task("fact", "", "?"), "Paris"), "an answer without a word is in no sentence"


def test_a_task_is_chosen_right_where_its_answer_is_the_likeliest(tmp_path: Path) -> None:
    pair = speckd.load_pair(*training_pair.save(tmp_path), device="cpu")
    words = ("one", "two", "three")
    prompt = encode_prompt(pair.tokenizer, [{"role": "user", "content": "count"}])

    def likely(word: str) -> float:
        answer = pair.tokenizer.encode(word, add_special_tokens=False)
        log_q = pair.student(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        return sum(log_q[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))

    tasks = [Task("fact", "count", word, tuple(other for other in words if other != word)) for word in words]
    best = max(words, key=likely)
    for task in tasks:
        assert chosen_right(pair.student, pair, [task]) == float(task.answer == best)
    assert chosen_right(pair.student, pair, tasks) == pytest.approx(1 / 3)


def test_wrong_answers_are_no_right_ones() -> None:
    for task in TASKS:
        assert 2 <= len(task.others) == len(set(task.others)) and task.answer not in task.others


def test_steadiness_reads_the_log() -> None:
    rows: list[dict[str, Any]] = [
        {"step": n, "loss": 1.0, "grad_norm": norm, "divergence": 2.0, "tar": 0.5, "masked_share": 0.25}
        for n, norm in enumerate([9.0, 9.0, 9.0, 9.0, 9.0, 1.0, 3.0])
    ]
    rows += [{"step": n, "eval_divergence": value} for n, value in enumerate([3.0, 2.5, 2.9, 2.0])]
    found = steadiness(rows)
    assert found["grad_norm_mean"] == 2.0 and found["grad_norm_spread"] == 0.5  # the first five settle
    assert found["largest_jump"] == pytest.approx(0.4) and found["kept_weight"] == 0.75
    assert compact(rows, {"divergence": 3.5})["held_out"]["divergence"] == [3.5, 3.0, 2.5, 2.9, 2.0]
