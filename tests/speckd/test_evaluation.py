"""Held-out figures: the definitions worked by a plain loop, and ROUGE-L by hand."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import speckd
from speckd.data import read_examples
from speckd.evaluation import Scores, difference, evaluate_pair, facts_of, rouge_l, rouge_of_answers
from speckd.gated_student import FACTS, sum_facts
from speckd.training.teacher_cache import fill_cache
from tests import training_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> speckd.Pair:
    return speckd.load_pair(*training_pair.save(tmp_path_factory.mktemp("pair")), device="cpu")


def test_scores_are_means_over_response_tokens(pair: speckd.Pair) -> None:
    examples = read_examples(training_pair.ROWS, pair.tokenizer).examples
    sums = dict.fromkeys(("divergence", "tar", "acceptance", "agreement", "teacher_entropy", "student_entropy"), 0.0)
    n_tokens = 0
    for example in examples:
        ids = torch.tensor([example.prompt_ids + example.response_ids])
        rows = slice(len(example.prompt_ids) - 1, -1)
        with torch.no_grad():
            p = pair.teacher(ids).logits[0, rows].log_softmax(-1)
            q = pair.student(ids).logits[0, rows].log_softmax(-1)
        n_tokens += len(p)
        sums["divergence"] += (p.exp() * (p - q)).sum().item()
        top = p.topk(3).indices
        sums["tar"] += (top == q.argmax(-1, keepdim=True)).any(-1).sum().item()
        sums["acceptance"] += torch.minimum(p.exp(), q.exp()).sum().item()
        sums["agreement"] += (p.argmax(-1) == q.argmax(-1)).sum().item()
        sums["teacher_entropy"] -= (p.exp() * p).sum().item()
        sums["student_entropy"] -= (q.exp() * q).sum().item()
    for batch_size in (1, 7):
        scores = evaluate_pair(pair, examples, k=3, batch_size=batch_size)
        assert scores.n_tokens == n_tokens and scores.n_examples == 26
        for name, total in sums.items():
            assert getattr(scores, name) == pytest.approx(total / n_tokens, rel=1e-4), name


def test_two_students_are_compared_on_the_same_examples(pair: speckd.Pair) -> None:
    examples = read_examples(training_pair.ROWS[:12], pair.tokenizer).examples
    twins = replace(pair, student=pair.teacher)
    facts, others = (facts_of(one, examples, batch_size=5) for one in (pair, twins))
    alone = torch.cat([facts_of(pair, [example]) for example in examples])
    assert torch.allclose(facts, alone, rtol=1e-4, atol=1e-4), "a row is of its own example"
    mean, low, high = difference(facts, others, "acceptance")
    assert mean == pytest.approx(evaluate_pair(pair, examples).acceptance - 1, abs=1e-5)
    assert low < mean < high < 0
    assert difference(facts, facts, "divergence") == (0, 0, 0)


def test_a_student_equal_to_its_teacher_has_perfect_scores(pair: speckd.Pair) -> None:
    twins = replace(pair, student=pair.teacher)
    examples = read_examples(training_pair.ROWS[:5], pair.tokenizer).examples
    scores = evaluate_pair(twins, examples, n_rouge=2, max_new_tokens=8)
    assert scores.divergence == pytest.approx(0, abs=1e-5)
    assert (scores.tar, scores.agreement) == (1, 1)
    assert scores.acceptance == pytest.approx(1, abs=1e-5)


def test_a_teacher_cache_changes_no_figure_but_by_its_rounding(pair: speckd.Pair, tmp_path: Path) -> None:
    examples = read_examples(training_pair.ROWS, pair.tokenizer).examples
    cache = fill_cache(tmp_path, pair.teacher, pair.tokenizer, examples[:20], pair.teacher_sha256)
    with_cache, without = (evaluate_pair(pair, examples, teacher_cache=given) for given in (cache, None))
    assert with_cache.divergence == pytest.approx(without.divergence, rel=1e-3)
    assert with_cache.tar == pytest.approx(without.tar, abs=0.01)


def test_facts_are_added_up_for_each_example() -> None:
    loss = SimpleNamespace(
        divergence=torch.tensor([1.0, 2.0, float("inf")]),
        accepted=torch.tensor([True, False, False]),
        weights=torch.tensor([1.0, 0.5, 0.0]),
        teacher_entropy=None,
        student_entropy=torch.tensor([0.1, 0.2, 0.3]),
        acceptance_probability=None,
        agreement=None,
    )
    facts = sum_facts(loss, torch.tensor([0, 0, 1]), 3)
    named = {name: facts[:, column].tolist() for column, name in enumerate(FACTS)}
    assert named["n_tokens"] == [2, 1, 0] and named["accepted"] == [1, 0, 0]
    assert named["divergence"] == [3, float("inf"), 0]
    assert named["weighted_divergence"] == [2, 0, 0]  # a masked row of infinite divergence counts nothing
    assert named["student_entropy"] == pytest.approx([0.3, 0.3, 0])
    assert Scores.of(facts[:1], 5, "forward_kl").divergence == 1.5


@pytest.mark.parametrize(
    ("reference", "answer", "score"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("The cat, sat!", "the CAT sat", 1.0),
        ("a b c d", "a c", 2 * 1.0 * 0.5 / 1.5),  # precision 1, recall 1/2
        ("a b c", "c b a", 1 / 3),
        ("a b", "x y", 0.0),
        ("", "a", 0.0),
        ("...", "...", 0.0),  # no words at all
    ],
)
def test_rouge_l_by_hand(reference: str, answer: str, score: float) -> None:
    assert rouge_l(reference, answer) == pytest.approx(score)
    assert rouge_l(answer, reference) == pytest.approx(score)


def test_rouge_of_answers_compares_greedy_answers(pair: speckd.Pair) -> None:
    examples = read_examples(training_pair.ROWS[:3], pair.tokenizer).examples
    assert 0 <= rouge_of_answers(pair, examples, 8) <= 1
    given = rouge_of_answers(pair, examples, 8, references=["zz"] * 3)
    assert given == 0


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("Небо синее", "небо синее", 1.0),
        ("天空是蓝色的", "天空是红色的", 5 / 6),
        ("السماء زرقاء", "السماء زرقاء", 1.0),
        ("आसमान नीला है", "आसमान नीला था", 2 / 3),
        ("ท้องฟ้า", "ท้องฟ้า", 1.0),
        ("ดี", "ดู", 0.0),  # one consonant, two vowel signs: two words
        ("می\u200cخواهم", "می\u200cخواهم بروم", 2 / 3),  # a joiner within a word is no end of it
        ("하늘은 파랗다", "하늘은 푸르다", 0.5),
        ("ꦱꦸꦒꦼꦁ", "ꦱꦸꦒꦼꦁ", 1.0),
        ("👍 🎉", "👍 🎉", 1.0),
        ("👍", "🎉", 0.0),
        ("It's the sky.", "its the SKY", 0.5714285714285714),
    ],
)
def test_rouge_l_holds_for_any_script(reference: str, answer: str, expected: float) -> None:
    assert rouge_l(reference, answer) == pytest.approx(expected)


def test_a_text_longer_than_the_models_positions_is_refused_in_one_sentence(tmp_path: Path) -> None:
    from tests import tiny

    folders = [str(tiny.save_model(tmp_path / name, context=length)) for name, length in (("a", 64), ("b", 48))]
    pair = speckd.load_pair(*folders, device="cpu")
    examples = read_examples([{"prompt": "a" * 10, "response": "b" * 40}], pair.tokenizer).examples
    with pytest.raises(ValueError, match=r"line 1 is 7\d tokens long, and the student reads at most 48"):
        evaluate_pair(pair, examples)
