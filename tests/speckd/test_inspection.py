"""inspect: the rows it measures, against a plain reference; its texts; its limits; its speed is in tests/bench."""

import threading
from pathlib import Path

import pytest
import torch

import speckd
from speckd import divergences as div
from speckd.draws import K_MAX, draw_and_verify, row_uniforms
from speckd.heads import Head
from speckd.inspection import BLOCK_ROWS, CHUNK_ROWS, measure_rows, token_text
from speckd.jobs import Progress
from speckd.ranks import top_tokens
from tests import tiny

LONG = "The quick brown owl reads. " * 8  # several chunks of rows, the last one short


def reference(pair: speckd.Pair, trace: speckd.Trace) -> tuple[torch.Tensor, torch.Tensor]:
    """Full log-probabilities of the response rows, straight from the models' own forward pass."""
    ids = trace.input_ids[None]
    rows = slice(trace.n_prompt - 1, -1)
    with torch.no_grad():
        both = [model(ids).logits[0, rows].float() for model in (pair.teacher, pair.student)]
    return tuple((logits / trace.config["temperature"]).log_softmax(-1) for logits in both)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_every_number_agrees_with_a_plain_reference(tiny_pair: speckd.Pair, temperature: float) -> None:
    trace = speckd.inspect(tiny_pair, "Why?", response=LONG, temperature=temperature, seed=3)
    assert trace.n_tokens > CHUNK_ROWS and trace.n_tokens % BLOCK_ROWS
    p, q = reference(tiny_pair, trace)
    for name, function in div.DIVERGENCES.items():
        torch.testing.assert_close(trace.divergence(name), function(p, q), rtol=1e-4, atol=2e-6, msg=name)
    torch.testing.assert_close(trace.hellinger, div.hellinger(p, q), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(trace.teacher_entropy, div.entropy(p), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trace.student_entropy, div.entropy(q), rtol=1e-5, atol=1e-6)
    targets = trace.input_ids[trace.n_prompt :]
    torch.testing.assert_close(
        trace.token_teacher_prob, p.exp().gather(1, targets[:, None])[:, 0], rtol=1e-4, atol=1e-7
    )
    assert torch.equal(trace.proposal_ids, q.argmax(-1))
    order = p.argsort(descending=True, stable=True, dim=-1)
    ranks = [row.tolist().index(token) + 1 for row, token in zip(order, trace.proposal_ids.tolist(), strict=True)]
    assert trace.topk_threshold.tolist() == ranks
    assert torch.equal(trace.teacher_top.ids, order[:, :10])
    positions = torch.arange(trace.n_tokens)
    draws = draw_and_verify(p, q, row_uniforms(3, torch.zeros_like(positions), positions, K_MAX))
    assert (trace.speck_threshold == draws.threshold()).all()
    torch.testing.assert_close(trace.acceptance_probability(2), 1 - div.tvd(p, q) ** 2, rtol=1e-4, atol=1e-6)


def test_what_the_other_model_thinks_of_the_top_tokens(tiny_pair: speckd.Pair, tiny_trace: speckd.Trace) -> None:
    _p, q = reference(tiny_pair, tiny_trace)
    student_order = q.argsort(descending=True, stable=True, dim=-1)
    for row in range(tiny_trace.n_tokens):
        ids = tiny_trace.teacher_top.ids[row].tolist()
        places = [student_order[row].tolist().index(token) + 1 for token in ids]
        assert tiny_trace.teacher_top.other_rank[row].tolist() == places
        torch.testing.assert_close(tiny_trace.teacher_top.other_prob[row], q[row, ids].exp(), rtol=1e-4, atol=1e-7)


def test_chunks_never_change_a_number(tiny_pair: speckd.Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = speckd.inspect(tiny_pair, "Why?", response=LONG)
    monkeypatch.setattr("speckd.inspection.CHUNK_ROWS", 7)
    monkeypatch.setattr("speckd.inspection.BLOCK_ROWS", 3)
    chunked = speckd.inspect(tiny_pair, "Why?", response=LONG)
    assert torch.equal(whole.topk_threshold, chunked.topk_threshold)
    assert torch.equal(whole.speck_threshold, chunked.speck_threshold)
    assert torch.equal(whole.draws.coins, chunked.draws.coins)
    # the size of a matrix product changes the order of its sums: float32 rounding
    torch.testing.assert_close(whole.divergence(), chunked.divergence(), rtol=1e-4, atol=1e-6)


def test_rows_with_impossible_tokens_follow_the_definition() -> None:
    teacher = torch.tensor([[1.0, 0.0, -torch.inf, *[-1.0] * 9], [0.0] * 12])
    student = torch.tensor([[0.0, 1.0, *[-torch.inf] * 10], [0.0] * 12])
    uniforms = row_uniforms(0, torch.zeros(2, dtype=torch.int64), torch.arange(2), K_MAX)
    measured = measure_rows(teacher, student, torch.tensor([0, 0]), uniforms)
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    assert measured["forward_kl"][0] == torch.inf
    for name in ("reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "tvd"):
        assert measured[name][0].item() == pytest.approx(div.DIVERGENCES[name](p, q)[0].item(), abs=1e-6)
    assert all(measured[name][1] == 0 for name in div.DIVERGENCES)


def test_identical_models_accept_everything_and_differ_in_nothing(tiny_folders: tuple[object, object]) -> None:
    pair = speckd.load_pair(str(tiny_folders[0]), str(tiny_folders[0]), device="cpu")
    trace = speckd.inspect(pair, "Why?", response="No reason.")
    assert trace.tar(speckd.TopK(k=1)) == trace.tar(speckd.SpecK(k=1)) == 1.0
    assert all(trace.divergence(name).max() < 1e-6 for name in div.DIVERGENCES)


@pytest.mark.parametrize("source", ["teacher", "student"])
def test_a_greedy_response_is_the_models_own_argmax(tiny_pair: speckd.Pair, source: str) -> None:
    trace = speckd.inspect(tiny_pair, "Tell me.", source=source, max_new_tokens=20)
    p, q = reference(tiny_pair, trace)
    expected = (p if source == "teacher" else q).argmax(-1)
    assert torch.equal(trace.input_ids[trace.n_prompt :], expected)
    assert trace.n_tokens <= 20


@pytest.mark.slow
def test_the_end_of_turn_token_counts_where_the_model_emits_it_and_nothing_follows_it(tiny_pair: speckd.Pair) -> None:
    end = tiny_pair.tokenizer.eos_token_id
    endings = 0
    for seed in range(24):
        trace = speckd.inspect(tiny_pair, f"Say {seed}", do_sample=True, temperature=30.0, seed=seed, max_new_tokens=40)
        ids = trace.input_ids[trace.n_prompt :].tolist()
        assert end not in ids[:-1]
        endings += ids[-1] == end
    assert endings > 0


def test_a_sampled_response_follows_its_seed_and_leaves_the_global_generator_alone(tiny_pair: speckd.Pair) -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    ask = {"do_sample": True, "max_new_tokens": 24}
    first = speckd.inspect(tiny_pair, "Tell me.", seed=5, **ask)
    assert torch.equal(torch.rand(3), expected)
    assert speckd.inspect(tiny_pair, "Tell me.", seed=5, **ask) == first
    assert speckd.inspect(tiny_pair, "Tell me.", seed=6, **ask).response != first.response


def test_prefix_ids_force_the_beginning_and_the_model_goes_on(tiny_pair: speckd.Pair) -> None:
    greedy = speckd.inspect(tiny_pair, "Tell me.", max_new_tokens=12)
    ids = greedy.input_ids[greedy.n_prompt :].tolist()
    other = int(greedy.teacher_top.ids[3, 1])
    trace = speckd.inspect(tiny_pair, "Tell me.", max_new_tokens=12, prefix_ids=[*ids[:3], other])
    assert trace.input_ids[trace.n_prompt :].tolist()[:4] == [*ids[:3], other]
    assert trace.n_tokens > 4
    with pytest.raises(ValueError, match="outside the vocabulary"):
        speckd.inspect(tiny_pair, "Tell me.", prefix_ids=[10**6])


def test_token_texts_join_to_the_response_and_show_bytes_of_split_characters(tiny_pair: speckd.Pair) -> None:
    trace = speckd.inspect(tiny_pair, "Why?", response="a b\nc")
    assert "".join(trace.tokens) == trace.response == "a b\nc"
    owl = speckd.inspect(tiny_pair, "Why?", response="🦉")
    assert owl.tokens == ["<F0>", "<9F>", "<A6>", "<89>"] and owl.response == "🦉"


def test_a_padded_row_that_the_tokenizer_does_not_know_has_a_name(tiny_pair: speckd.Pair) -> None:
    assert token_text(tiny_pair.tokenizer, 100_000) == "<100000>"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": " \n\t "}, "prompt is empty"),
        ({"response": ""}, "given response is empty"),
        ({"source": "given"}, "given response is empty"),
        ({"source": "nobody"}, "choose 'teacher', 'student' or 'given'"),
        ({"source": "teacher", "response": "x"}, "Leave one of the two out"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"prompt": "half \ud83e"}, "lone surrogate"),
        ({"prompt": "word " * 600}, "Shorten it"),
        ({"response": "word " * 600}, "Shorten it"),
    ],
)
def test_a_mistake_is_one_sentence_that_says_what_to_do(tiny_pair: speckd.Pair, arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        speckd.inspect(tiny_pair, **{"prompt": "Why?", **arguments})
    assert "\n" not in str(caught.value)


HOSTILE = [
    "<img src=x onerror=alert(1)>", "${alert(1)}", "{{constructor}}", "\\", "\x00", "\u202eright to left", "🦉" * 50,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_strange_text_passes_through_as_data(tiny_pair: speckd.Pair, text: str) -> None:
    as_prompt = speckd.inspect(tiny_pair, text, max_new_tokens=3)
    assert as_prompt.prompt == text
    assert speckd.inspect(tiny_pair, "Why?", response=text).response == text


def test_a_model_whose_logits_are_not_finite_is_named_by_the_token(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "broken")
    pair = speckd.load_pair(str(folder), str(folder), device="cpu")
    with torch.no_grad():
        pair.teacher.model.norm.weight[0] = torch.nan
    with pytest.raises(ValueError, match=r"response token 1 .*not finite"):
        speckd.inspect(pair, "Why?", response="No.")


def test_stop_ends_generation_and_a_pass_within_a_layer(tiny_pair: speckd.Pair) -> None:
    stop = threading.Event()
    seen: list[Progress] = []

    def watch(event: Progress) -> None:
        seen.append(event)
        if event.stage == "generate" and event.done == 3:
            stop.set()

    with pytest.raises(speckd.Stopped):
        speckd.inspect(tiny_pair, "Tell me.", max_new_tokens=50, on_progress=watch, should_stop=stop.is_set)
    assert max(event.done for event in seen) == 3
    asked = iter([False] * 2 + [True] * 100)
    with pytest.raises(speckd.Stopped):
        speckd.inspect(tiny_pair, "Why?", response="No.", should_stop=lambda: next(asked))
    speckd.inspect(tiny_pair, "Why?", response="No.")  # the hooks are gone


def test_progress_names_its_stages_in_order_and_reaches_their_ends(tiny_pair: speckd.Pair) -> None:
    seen: list[Progress] = []
    speckd.inspect(tiny_pair, "Why?", response=LONG, on_progress=seen.append)
    assert list(dict.fromkeys(event.stage for event in seen)) == ["teacher", "student", "measure"]
    for stage in ("teacher", "student", "measure"):
        last = [event for event in seen if event.stage == stage][-1]
        assert last.done == last.total


def test_heads_apply_scale_softcap_and_bias() -> None:
    hidden, weight, bias = torch.randn(3, 4), torch.randn(6, 4), torch.randn(6)
    expected = 5 * torch.tanh(((hidden @ weight.T + bias) * 0.5) / 5)
    torch.testing.assert_close(Head(weight, bias, scale=0.5, softcap=5.0).logits(hidden), expected)
    torch.testing.assert_close(Head(weight, bias).logits(hidden, 4), (hidden @ weight.T + bias)[:, :4])


@pytest.mark.packaged
def test_the_packaged_pair_speaks_and_the_student_proposes_what_the_teacher_accepts(packaged_pair: speckd.Pair) -> None:
    trace = speckd.inspect(packaged_pair, "What is the capital of France?", max_new_tokens=24)
    assert "Paris" in trace.response
    assert 0.2 < trace.tar(speckd.TopK()) < 1.0
    assert trace.tar(speckd.TopK(k=1)) <= trace.tar(speckd.TopK(k=5)) <= trace.tar(speckd.TopK(k=50))
    p, q = reference(packaged_pair, trace)
    torch.testing.assert_close(trace.divergence(), div.forward_kl(p, q), rtol=1e-3, atol=1e-4)


def test_top_tokens_of_equal_scores_are_the_lower_ids_also_across_the_end_of_the_list() -> None:
    scores = torch.zeros(2, 40)
    scores[1, [30, 7]] = 1.0
    assert top_tokens(scores, 4).tolist() == [[0, 1, 2, 3], [7, 30, 0, 1]]
    spread = torch.randn(20, 40).round()  # many ties
    assert torch.equal(top_tokens(spread, 10), spread.argsort(dim=-1, descending=True, stable=True)[:, :10])


def test_a_progress_callback_that_returns_something_changes_nothing(tiny_pair: speckd.Pair) -> None:
    quiet = speckd.inspect(tiny_pair, "Why?", response="No.")
    assert speckd.inspect(tiny_pair, "Why?", response="No.", on_progress=lambda _: True) == quiet


def test_a_head_that_an_adapter_wraps_is_refused_instead_of_read_without_the_adapter(tmp_path: Path) -> None:
    base = tiny.save_model(tmp_path / "base")
    adapter = tiny.save_adapter(tmp_path / "adapter", base, target_modules=["q_proj", "lm_head"])
    with pytest.raises(ValueError, match="An adapter wraps the model's head"):
        speckd.load_pair(str(base), str(adapter), device="cpu")


def test_slices_of_a_long_text_give_the_numbers_of_the_whole(
    tiny_pair: speckd.Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = speckd.inspect(tiny_pair, "Why?", response=LONG)
    monkeypatch.setattr("speckd.heads.MLP_POSITIONS", 50)
    sliced = speckd.inspect(tiny_pair, "Why?", response=LONG)
    # the size of a matrix product changes the order of its sums: float32 rounding
    torch.testing.assert_close(sliced.divergence(), whole.divergence(), rtol=1e-3, atol=1e-5)
    assert "forward" not in vars(tiny_pair.teacher.get_decoder().layers[0].mlp)
