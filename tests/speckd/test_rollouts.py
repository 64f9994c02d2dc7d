"""Answers in batches: the same whatever the batch, and files that go on where they stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import speckd
from speckd.conversations import encode_prompt
from speckd.data import read_examples
from speckd.draws import draw_from_nucleus
from speckd.rollouts import (
    Sampling,
    batches_by_length,
    generate,
    generate_batch,
    is_complete,
    stop_token_ids,
    write_rollouts,
)
from speckd.training.teacher_cache import teacher_rows

PROMPTS = [[{"role": "user", "content": text}] for text in ("Hi", "Why is it so?", "Tell me.", "a b c d e f", "x")]


@pytest.fixture
def pair(tiny_folders: tuple[Path, Path]) -> speckd.Pair:
    return speckd.load_pair(str(tiny_folders[0]), str(tiny_folders[1]), device="cpu")


def ids_of(pair: speckd.Pair) -> list[list[int]]:
    return [encode_prompt(pair.tokenizer, prompt) for prompt in PROMPTS]


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [Sampling(max_new_tokens=12), Sampling(True, 12, 0.9, 0.95, seed=3)])
def test_an_answer_does_not_depend_on_its_batch(pair: speckd.Pair, sampling: Sampling) -> None:
    prompts = ids_of(pair)
    alone = [
        generate_batch(pair.teacher, pair.tokenizer, [prompt], sampling, answers=[index])[0].response_ids
        for index, prompt in enumerate(prompts)
    ]
    for batch_size in (2, 5):
        made = dict(generate(pair.teacher, pair.tokenizer, prompts, sampling, batch_size=batch_size))
        assert [made[index].response_ids for index in range(len(prompts))] == alone


def test_greedy_answers_are_those_of_generate(pair: speckd.Pair) -> None:
    prompt = ids_of(pair)[1]
    expected = pair.teacher.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=10)[0, len(prompt) :]
    answer = generate_batch(pair.teacher, pair.tokenizer, [prompt], Sampling(max_new_tokens=10))[0]
    assert answer.response_ids == expected.tolist()[: len(answer.response_ids)]


def test_seeds_and_prompts_have_answers_of_their_own(pair: speckd.Pair) -> None:
    prompt = ids_of(pair)[0]

    def draw(seed: int, answer: int) -> list[int]:
        sampling = Sampling(True, 16, seed=seed)
        return generate_batch(pair.teacher, pair.tokenizer, [prompt], sampling, answers=[answer])[0].response_ids

    assert draw(1, 0) == draw(1, 0)
    assert draw(1, 0) != draw(2, 0) and draw(1, 0) != draw(1, 1)


def test_the_global_generator_is_left_alone(pair: speckd.Pair) -> None:
    before = torch.random.get_rng_state()
    generate_batch(pair.teacher, pair.tokenizer, ids_of(pair), Sampling(True, 4))
    assert torch.equal(before, torch.random.get_rng_state())


def test_hidden_states_come_with_the_answer_and_are_the_teachers(pair: speckd.Pair) -> None:
    prompts = ids_of(pair)
    answers = generate_batch(pair.teacher, pair.tokenizer, prompts, Sampling(True, 9), keep_hidden=True)
    for prompt, messages, answer in zip(prompts, PROMPTS, answers, strict=True):
        row = {
            "messages": messages,
            "response": pair.tokenizer.decode(answer.response_ids[: -1 if answer.finished else None]),
            "response_ids": answer.response_ids,
            "finished": answer.finished,
        }
        example = read_examples([row], pair.tokenizer).examples[0]
        assert example.prompt_ids == prompt and example.response_ids == answer.response_ids
        exact = teacher_rows(pair.teacher, [example])[0]
        torch.testing.assert_close(answer.hidden.float(), exact, rtol=5e-3, atol=5e-3)  # kept as float16


def test_draws_follow_the_nucleus_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    uniforms = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000  # every quantile once: no chance is left
    logits = probabilities.log().expand(10_000, 4)
    counts = torch.bincount(draw_from_nucleus(logits, uniforms), minlength=4)
    assert counts.tolist() == pytest.approx([5000, 3000, 1500, 500], abs=1)
    counts = torch.bincount(draw_from_nucleus(logits, uniforms, top_p=0.7), minlength=4)
    assert counts.tolist() == pytest.approx([6250, 3750, 0, 0], abs=1)  # the first two reach 0.7; they share everything
    counts = torch.bincount(draw_from_nucleus(logits, uniforms, temperature=0.5), minlength=4)
    squares = probabilities**2 / (probabilities**2).sum()
    assert counts.tolist() == pytest.approx((squares * 10_000).tolist(), abs=1)


def test_a_nucleus_larger_than_the_first_guess_is_found() -> None:
    uniforms = torch.tensor([0.0, 0.5, 0.999999], dtype=torch.float64)
    drawn = draw_from_nucleus(torch.zeros(3, 5000), uniforms, top_p=0.9)  # flat: the nucleus holds 4,500 tokens
    assert len(set(drawn.tolist())) == 3


def test_batches_hold_prompts_of_like_length() -> None:
    assert batches_by_length([3, 9, 4, 8, 1], 2) == [[1, 3], [2, 0], [4]]


def test_a_stop_ends_within_a_token_and_drops_the_batch_at_hand(pair: speckd.Pair) -> None:
    steps: list[int] = []
    made = list(
        generate(
            pair.teacher,
            pair.tokenizer,
            ids_of(pair),
            Sampling(max_new_tokens=50),
            batch_size=2,
            on_step=lambda _: steps.append(1),
            should_stop=lambda: len(steps) >= 3,
        )
    )
    assert made == [] and len(steps) == 3


def write(pair: speckd.Pair, path: Path, **others: Any) -> Path:
    settings = {"model_id": "tiny", "model_sha256": "a" * 64, "batch_size": 2} | others
    return write_rollouts(
        path, pair.teacher, pair.tokenizer, PROMPTS, ids_of(pair), Sampling(True, 8, seed=1), **settings
    )


def test_an_interrupted_file_goes_on_to_the_file_of_an_unbroken_run(pair: speckd.Pair, tmp_path: Path) -> None:
    whole = write(pair, tmp_path / "whole.jsonl")
    assert is_complete(whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    for n_lines, tail in ((0, b""), (1, b""), (3, b""), (4, lines[4][:20]), (6, b"")):
        cut = tmp_path / f"cut{n_lines}.jsonl"
        cut.write_bytes(b"".join(lines[:n_lines]) + tail)  # a kill may leave half a line
        assert not is_complete(cut)
        write(pair, cut)
        assert is_complete(cut)
        assert sorted(cut.read_bytes().splitlines()) == sorted(whole.read_bytes().splitlines())


def test_a_complete_file_is_not_made_again_and_another_request_is_refused(pair: speckd.Pair, tmp_path: Path) -> None:
    path = write(pair, tmp_path / "a.jsonl")
    before = path.stat().st_mtime_ns
    assert write(pair, path).stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="another request: its model_sha256 differ"):
        write(pair, path, model_sha256="b" * 64)


@pytest.mark.parametrize("precious", [b"precious", b'{"prompt": "a"}', b'{"prompt": "a"}\n{"prom', b"[1]\n"])
def test_a_file_that_is_no_file_of_answers_stays_as_it_is(pair: speckd.Pair, tmp_path: Path, precious: bytes) -> None:
    (tmp_path / "mine.jsonl").write_bytes(precious)
    with pytest.raises(ValueError, match="is no file of answers"):
        write(pair, tmp_path / "mine.jsonl")
    assert (tmp_path / "mine.jsonl").read_bytes() == precious


def test_a_rollout_file_is_read_as_data(pair: speckd.Pair, tmp_path: Path) -> None:
    path = write(pair, tmp_path / "a.jsonl")
    found = read_examples(path, pair.tokenizer)
    written = [json.loads(line) for line in path.read_text().splitlines()[1:-1]]
    assert [example.response_ids for example in found.examples] == [row["response_ids"] for row in written]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"temperature": 0.0}, "above 0"), ({"top_p": 0.0}, "top_p"), ({"max_new_tokens": 0}, "at least one")],
)
def test_a_setting_that_makes_no_sense_is_one_sentence(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sampling(**settings)


def test_a_prompt_without_tokens_is_refused(pair: speckd.Pair) -> None:
    with pytest.raises(ValueError, match="has no token"):
        generate_batch(pair.teacher, pair.tokenizer, [[1], []], Sampling())


def test_a_checkpoints_generation_settings_never_leak_into_an_answer(pair: speckd.Pair) -> None:
    """A repetition penalty, a ban, a temperature: answers stay those of the model's own logits."""
    prompts = ids_of(pair)
    samplings = (Sampling(max_new_tokens=24), Sampling(True, 24, seed=4))

    def written() -> list[list[int]]:
        answers = [generate_batch(pair.teacher, pair.tokenizer, prompts, sampling) for sampling in samplings]
        return [answer.response_ids for batch in answers for answer in batch]

    plain, traced = written(), speckd.inspect(pair, "Tell me.", max_new_tokens=16, do_sample=True, seed=2)
    first = plain[0][0]
    own = pair.teacher.generation_config
    own.update(repetition_penalty=5.0, suppress_tokens=[first], temperature=0.1, do_sample=True, min_new_tokens=30)
    own.update(no_repeat_ngram_size=1, top_k=3, num_beams=3)
    assert written() == plain
    assert speckd.inspect(pair, "Tell me.", max_new_tokens=16, do_sample=True, seed=2) == traced
    assert pair.teacher.generation_config is own and own.repetition_penalty == 5.0


def test_inspection_and_rollouts_draw_the_same_answer_and_stop_by_one_rule(pair: speckd.Pair) -> None:
    prompt = encode_prompt(pair.tokenizer, [{"role": "user", "content": "Tell me."}])
    for seed in range(3):
        answer = generate_batch(pair.teacher, pair.tokenizer, [prompt], Sampling(True, 24, seed=seed))[0]
        trace = speckd.inspect(pair, "Tell me.", do_sample=True, max_new_tokens=24, seed=seed)
        assert trace.input_ids[trace.n_prompt :].tolist() == answer.response_ids
    # A configuration that does not know the template's end of turn, as base models bring along.
    pair.teacher.generation_config.eos_token_id = 5
    assert stop_token_ids(pair.teacher, pair.tokenizer) == [5, pair.tokenizer.eos_token_id]


def test_an_answer_past_the_models_positions_is_refused(pair: speckd.Pair) -> None:
    with pytest.raises(ValueError, match="the model reads at most 512"):
        generate_batch(pair.teacher, pair.tokenizer, [[1, 2]], Sampling(max_new_tokens=511))


@pytest.mark.parametrize("do_sample", [False, True])
def test_one_answer_is_the_same_text_by_the_lean_forward_and_by_transformers(
    tiny_pair: speckd.Pair, do_sample: bool
) -> None:
    from speckd.decoding.draft_named import fit_draft
    from speckd.decoding.forward import forward_of
    from speckd.rollouts import Sampling, generate_batch

    sampling = Sampling(do_sample=do_sample, max_new_tokens=24, temperature=0.7, top_p=0.95, seed=5)
    draft = fit_draft(tiny_pair, "student", forward_of(tiny_pair.teacher), None, False).draft
    asked = (tiny_pair.teacher, tiny_pair.tokenizer, [[4, 9, 12]], sampling)
    told: list[list[int]] = []
    plain = generate_batch(*asked, keep_hidden=True)[0]
    for drafted in (None, draft):
        more = {"keep_hidden": True, "on_step": lambda texts: told.append(texts[0][:])}
        fast = generate_batch(*asked, lean=True, draft=drafted, **more)[0]
        assert (fast.response_ids, fast.finished) == (plain.response_ids, plain.finished)
        assert told[-1] == plain.response_ids
        torch.testing.assert_close(fast.hidden.float(), plain.hidden.float(), rtol=1e-2, atol=1e-2)
