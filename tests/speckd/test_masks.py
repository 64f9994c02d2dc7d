"""What a gate masks in a data set."""

import json
from pathlib import Path

import pytest
import torch

from speckd import load_pair
from speckd.cli.main import main
from speckd.data import read_examples
from speckd.gates import AllOpen, HellingerWeight, TopK
from speckd.inspection import inspect
from speckd.pairs import Pair
from speckd.runs.masks import kinds, what_is_masked
from tests import training_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return load_pair(*training_pair.save(tmp_path_factory.mktemp("masks")), device="cpu", dtype="float32")


def test_a_data_set_is_the_sum_of_its_texts(pair: Pair) -> None:
    gate, rows = TopK(k=3), training_pair.ROWS[:5]
    found = what_is_masked(pair, read_examples(rows, pair.tokenizer).examples, gate)
    # ``inspect`` reads a given response with its end of turn, as training does
    traces = [inspect(pair, row["prompt"], response=row["response"]) for row in rows]
    n = [min(trace.n_tokens, len(row["response"])) for trace, row in zip(traces, rows, strict=True)]
    rejected = sum(int((~trace.accepted(gate)[:k]).sum()) for trace, k in zip(traces, n, strict=True))
    kinds_of_text = [row for row in found["kind"] if row["name"] != "end of turn"]
    assert sum(row["n"] for row in kinds_of_text) == sum(n)
    assert round(sum(row["n"] * row["rejected"] for row in kinds_of_text)) == rejected


def test_every_table_counts_every_token(pair: Pair) -> None:
    found = what_is_masked(pair, read_examples(training_pair.ROWS[:5], pair.tokenizer).examples, TopK(k=3))
    for name in ("place", "kind", "teacher_entropy", "student_entropy"):
        assert sum(row["n"] for row in found[name]) == found["n_tokens"], name
        share = sum(row["n"] * row["rejected"] for row in found[name]) / found["n_tokens"]
        assert share == pytest.approx(found["rejected"])
    assert [row["name"] for row in found["place"]] == [f"{10 * p} to {10 * p + 10}%" for p in range(10)]


def test_an_open_gate_rejects_nothing_and_a_soft_one_is_refused(pair: Pair) -> None:
    examples = read_examples(training_pair.ROWS[:2], pair.tokenizer).examples
    assert what_is_masked(pair, examples, AllOpen())["rejected"] == 0.0
    with pytest.raises(ValueError, match="rejects nothing that could be counted"):
        what_is_masked(pair, examples, HellingerWeight())


def test_kinds_of_tokens() -> None:
    class Words:
        all_special_ids = (0,)

        def decode(self, ids: list[int]) -> str:
            return ["<end>", " the", "ing", "7", ",", "\n", " whale"][ids[0]]

    found = kinds(Words(), [1, 1, 2, 2, 3, 4, 5, 6, 0])
    assert found == ["word start", "word start", "piece of a word", "piece of a word", "digit", "punctuation",
                     "white space", "seen once here", "end of turn"]  # fmt: skip


def test_the_command_prints_and_writes_the_counts(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in training_pair.ROWS[:3]))
    monkeypatch.setattr("speckd.cli.inspect.pair_from", lambda *_, **__: pair)
    assert main(["inspect", "--data", str(data), "--k", "2", "--json", str(tmp_path / "out.json")]) == 0
    assert "place in the answer" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["gate"] == "topk(k=2, beta=0.01)"
    assert main(["inspect"]) == 2 and "one of the two" in capsys.readouterr().err
    assert main(["inspect", "Why?", "--data", str(data)]) == 2
    assert torch.is_grad_enabled()
