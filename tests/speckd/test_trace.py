"""A Trace: re-gating without a model, JSON and CSV that lose nothing, and files that it refuses."""

import csv
import json
from pathlib import Path

import pytest
import torch

import speckd
from speckd.draws import random_scores
from speckd.files import write_whole
from speckd.ranks import ranks_by


def test_regating_compares_the_stored_thresholds(tiny_trace: speckd.Trace) -> None:
    for k in (1, 2, 5, 50):
        accepted = tiny_trace.accepted(speckd.TopK(k=k, beta=0.1))
        assert torch.equal(accepted, tiny_trace.topk_threshold <= k)
        assert tiny_trace.tar(speckd.TopK(k=k)) == pytest.approx(accepted.double().mean().item())
        assert torch.equal(tiny_trace.weights(speckd.TopK(k=k, beta=0.1)), 0.1 + 0.9 * accepted.float())
        assert torch.equal(tiny_trace.accepted(speckd.SpecK(k=k)), tiny_trace.speck_threshold <= k)


def test_tar_grows_with_k_for_both_rules(tiny_trace: speckd.Trace) -> None:
    for gate in (speckd.TopK, speckd.SpecK):
        rates = [tiny_trace.tar(gate(k=k)) for k in range(1, 51)]
        assert rates == sorted(rates)


def test_the_loss_divides_by_the_tokens_not_by_the_weights(tiny_trace: speckd.Trace) -> None:
    gate = speckd.TopK(k=3, beta=0.2)
    by_hand = sum(
        (1.0 if threshold <= 3 else 0.2) * distance
        for threshold, distance in zip(
            tiny_trace.topk_threshold.tolist(), tiny_trace.divergence("jsd").tolist(), strict=True
        )
    )
    assert tiny_trace.loss(gate, "jsd") == pytest.approx(by_hand / tiny_trace.n_tokens, rel=1e-6)
    plain = tiny_trace.divergence("jsd").double().mean().item()
    assert tiny_trace.loss(speckd.AllOpen(), "jsd") == pytest.approx(plain, rel=1e-9)


def test_the_stored_ranks_are_those_of_the_selectors(tiny_trace: speckd.Trace) -> None:
    n = tiny_trace.n_tokens
    for fraction in (0.1, 0.5, 0.9):
        budget = max(1, int(fraction * n + 0.5))
        for name, gate in {
            "adakd": speckd.AdaKD(fraction=fraction),
            "student_entropy": speckd.StudentEntropy(fraction=fraction),
            "teacher_entropy_low": speckd.TeacherEntropy(fraction=fraction, keep="lowest"),
            "teacher_entropy_high": speckd.TeacherEntropy(fraction=fraction, keep="highest"),
        }.items():
            assert torch.equal(tiny_trace.accepted(gate), tiny_trace.kept_at_budget(name, budget)), name
    assert torch.equal(tiny_trace.ranks["random"], ranks_by(random_scores(0, n), descending=False))
    assert torch.equal(tiny_trace.weights(speckd.HellingerWeight()), tiny_trace.hellinger)


def test_a_random_selector_reads_no_model_and_follows_its_seed(tiny_trace: speckd.Trace) -> None:
    first = tiny_trace.accepted(speckd.RandomTokens(rate=0.5, seed=1))
    assert torch.equal(first, random_scores(1, tiny_trace.n_tokens) < 0.5)
    assert not torch.equal(first, tiny_trace.accepted(speckd.RandomTokens(rate=0.5, seed=2)))


def test_acceptance_of_at_least_one_of_k_draws(tiny_trace: speckd.Trace) -> None:
    tvd = tiny_trace.divergence("tvd")
    torch.testing.assert_close(tiny_trace.acceptance_probability(), 1 - tvd)
    torch.testing.assert_close(tiny_trace.acceptance_probability(3), 1 - tvd**3)
    with pytest.raises(ValueError, match="whole number, 1 or more"):
        tiny_trace.acceptance_probability(0)


def test_json_loses_nothing(tiny_trace: speckd.Trace, tmp_path: Path) -> None:
    text = tiny_trace.to_json(tmp_path / "trace.json")
    for again in (speckd.Trace.from_json(text), speckd.Trace.from_json(tmp_path / "trace.json")):
        assert again == tiny_trace
        assert torch.equal(again.divergence(), tiny_trace.divergence())
        assert again.divergence().dtype is torch.float32
        assert torch.equal(again.draws.coins, tiny_trace.draws.coins)
        assert torch.equal(again.draws.threshold(), tiny_trace.speck_threshold)
        assert again.config == tiny_trace.config


def test_csv_loses_nothing_and_holds_no_formula(tiny_trace: speckd.Trace, tmp_path: Path) -> None:
    tiny_trace.to_csv(tmp_path / "trace.csv")
    assert speckd.Trace.from_csv(tmp_path / "trace.csv") == tiny_trace
    with (tmp_path / "trace.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == tiny_trace.n_tokens
    assert [json.loads(row["token"]) for row in rows] == tiny_trace.tokens
    assert [float(row["divergence.forward_kl"]) for row in rows] == pytest.approx(tiny_trace.divergence().tolist())
    for row in rows:
        for cell in row.values():
            assert not cell.startswith(("=", "+", "@", "\t", "\r")) and (cell[:1] != "-" or float(cell) <= 0)


def test_infinite_divergences_survive(tiny_trace: speckd.Trace, tmp_path: Path) -> None:
    data = tiny_trace.to_dict()
    data["divergence"]["forward_kl"][0] = "inf"
    trace = speckd.Trace.from_dict(data)
    assert trace.divergence()[0] == torch.inf
    text = trace.to_json(tmp_path / "trace.json")
    assert "Infinity" not in text and speckd.Trace.from_json(text) == trace
    trace.to_csv(tmp_path / "trace.csv")
    assert speckd.Trace.from_csv(tmp_path / "trace.csv") == trace


def test_a_closed_hard_gate_silences_an_infinite_divergence(tiny_trace: speckd.Trace) -> None:
    data = tiny_trace.to_dict()
    row = int(tiny_trace.topk_threshold.argmax())
    data["divergence"]["forward_kl"][row] = "inf"
    trace = speckd.Trace.from_dict(data)
    assert trace.loss(speckd.TopK(k=1, beta=0.0)) < float("inf")


def test_the_page_gets_fewer_draws_and_the_same_thresholds(tiny_trace: speckd.Trace) -> None:
    data = tiny_trace.to_dict(n_draws=16)
    assert len(data["draws"]["coin"][0]) == 16
    assert data["speck_threshold"] == tiny_trace.speck_threshold.tolist()
    short = speckd.Trace.from_dict(data)
    with pytest.raises(ValueError, match="holds 16 draws"):
        short.tar(speckd.SpecK(k=17))


def spoil(data: dict, path: str, value: object) -> None:
    *parents, last = path.split(".")
    for name in parents:
        data = data[name]
    if value is KeyError:
        del data[last]
    else:
        data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("format", "something else", "not a trace"),
        ("version", 99, "version 99"),
        ("tokens", KeyError, "broken.*tokens"),
        ("topk_threshold", [1, 2], "2 rows"),
        ("topk_threshold", ["x"], "broken"),
        ("topk_threshold", [None], "broken"),
        ("divergence.tvd", [0.5], "1 rows"),
        ("divergence", 7, "broken"),
        ("draws.coin", [[0.1]], "rows"),
        ("n_prompt", 0, "less 0 of the prompt"),
        ("config", {}, "broken.*prompt"),
        ("strings", {"x": "y"}, "broken"),
    ],
)
def test_a_broken_trace_is_refused_with_what_is_broken(
    tiny_trace: speckd.Trace, path: str, value: object, words: str
) -> None:
    data = json.loads(tiny_trace.to_json())
    spoil(data, path, value)
    with pytest.raises(ValueError, match=words) as caught:
        speckd.Trace.from_dict(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"format": "speckd.trace"', b"[]", b"\xff\xfe\x00", b"{}" * 3, b"null"]
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.json").write_bytes(content)
    with pytest.raises(ValueError, match="not a trace"):
        speckd.Trace.from_json(tmp_path / "broken.json")


def test_a_table_that_is_no_trace_is_refused(tmp_path: Path, tiny_trace: speckd.Trace) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not a trace"):
        speckd.Trace.from_csv(tmp_path / "other.csv")
    tiny_trace.to_csv(tmp_path / "trace.csv")
    lines = (tmp_path / "trace.csv").read_text().splitlines()
    (tmp_path / "cut.csv").write_text("\n".join(lines[:4]))
    with pytest.raises(ValueError, match="broken"):
        speckd.Trace.from_csv(tmp_path / "cut.csv")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "trace.json"
    target.write_text("before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(target, "half \ud83e")
    assert target.read_text() == "before" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["forward", "kl", ""])
def test_an_unknown_divergence_lists_the_known_ones(tiny_trace: speckd.Trace, name: str) -> None:
    with pytest.raises(ValueError, match="forward_kl, reverse_kl"):
        tiny_trace.divergence(name)
