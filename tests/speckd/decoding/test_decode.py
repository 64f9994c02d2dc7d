"""speckd.decode on a tiny pair: the teacher's own text by every draft and policy, records, mistakes, Stop."""

import json
import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import speckd
from speckd.decoding.decode import decode
from speckd.decoding.facts import facts
from speckd.decoding.forward import forward_of
from speckd.decoding.in_turns import decode_in_turns
from speckd.decoding.measuring import Meter, measure_costs
from speckd.decoding.record import DecodeRecord
from tests import training_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> speckd.Pair:
    """A teacher and a student that agree on about half of the tokens."""
    teacher, student = training_pair.save(tmp_path_factory.mktemp("decoded"))
    return speckd.load_pair(teacher, student, device="cpu", dtype="float32")


@cache
def greedy_text(model: Any, tokenizer: Any, prompt: str, n_tokens: int) -> list[int]:
    """What transformers' greedy generate writes."""
    from speckd.data import encode_prompt

    ids = torch.tensor([encode_prompt(tokenizer, [{"role": "user", "content": prompt}])])
    written = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n_tokens, pad_token_id=0
    )
    return written[0, ids.shape[1] :].tolist()


def own_text(pair: speckd.Pair, prompt: str, n_tokens: int) -> list[int]:
    return greedy_text(pair.teacher, pair.tokenizer, prompt, n_tokens)


WAYS = [
    ("none", None),
    ("student", "fixed:g=1"),
    ("student", "fixed:g=4"),
    ("student", "confidence:p=0.3"),
    ("student", "path:p=0.2"),
    ("student", "cost"),
    ("student", "tree:width=3:depth=3:nodes=8"),
    ("student", "ddd:x=-0.5:width=3:n=4:steps=2+3:nodes=9"),
    ("student:vocab=100", "fixed:g=3"),
    ("student:vocab=100", "tree:width=2:depth=2:nodes=5"),
    ("lookup:longest=2:least=1", "fixed:g=4"),
    ("lookup+student", "path:p=0.1"),
    ("lookup+student:vocab=100", "tree:width=2:depth=2:nodes=5"),
    ("exit:layer=1", "fixed:g=3"),
    ("exit:layer=2", "cost"),
    ("hispec:draft=1:middle=2", None),
    ("hispec:draft=1:middle=2:n_draft=3:gather=5", None),
]


@pytest.mark.slow
@pytest.mark.parametrize("lean", [True, False], ids=["lean", "model"])
@pytest.mark.parametrize(("draft", "policy"), WAYS)
def test_greedy_text_is_the_teachers_own(pair: speckd.Pair, draft: str, policy: str | None, lean: bool) -> None:
    record = decode(pair, "Say 3", draft=draft, policy=policy, max_new_tokens=24, lean=lean, plain=not lean)
    assert record.output_ids == own_text(pair, "Say 3", 24)
    assert record.lossless and record.identical in (True, None)
    assert [token for step in record.rounds for token in step.output] == record.output_ids


@pytest.mark.parametrize("draft", ["student", "exit:layer=2", "hispec:draft=1:middle=2"])
def test_after_every_round_the_cache_equals_that_of_a_fresh_pass(pair: speckd.Pair, draft: str) -> None:
    from speckd.data import encode_prompt
    from speckd.decoding.draft_named import fit_draft
    from speckd.decoding.forward import ModelForward
    from speckd.decoding.policies import policy_from_text
    from speckd.decoding.rounds import Rule

    target, policy = ModelForward(pair.teacher), policy_from_text("fixed:g=3")
    fitted = fit_draft(pair, draft, target, policy, False, lean=False)
    prompt = encode_prompt(pair.tokenizer, [{"role": "user", "content": "Say 5"}])
    text = list(prompt)
    for done in fitted.rounds(target, Rule(), policy, prompt, 20):
        text += done.output
        fresh = ModelForward(pair.teacher)
        fresh.feed(text[:-1])
        assert target.length == len(text) - 1
        for ours, theirs in zip(target.cache.layers, fresh.cache.layers, strict=True):
            torch.testing.assert_close(ours.keys, theirs.keys, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(ours.values, theirs.values, rtol=1e-4, atol=1e-5)


def test_a_tree_leaves_the_cache_of_its_accepted_path(pair: speckd.Pair) -> None:
    from speckd.decoding.draft_named import fit_draft
    from speckd.decoding.forward import ModelForward
    from speckd.decoding.policies import policy_from_text
    from speckd.decoding.rounds import Rule

    target, policy = ModelForward(pair.teacher), policy_from_text("tree:width=3:depth=3:nodes=9")
    fitted = fit_draft(pair, "student", target, policy, False, lean=False)
    text, branched = [5, 9], 0
    for done in fitted.rounds(target, Rule(), policy, text[:], 30):
        text += done.output
        branched += done.verdict.path != list(range(len(done.verdict.path)))
        fresh = ModelForward(pair.teacher)
        fresh.feed(text[:-1])
        for ours, theirs in zip(target.cache.layers, fresh.cache.layers, strict=True):
            torch.testing.assert_close(ours.keys, theirs.keys, rtol=1e-4, atol=1e-5)
    assert branched, "no round accepted anything but first children: the test shows nothing"


@pytest.mark.slow
def test_sampled_first_tokens_have_the_teachers_distribution(pair: speckd.Pair) -> None:
    """A chi-square test over 320 seeds of the first two tokens, pooled to cells of 8 or more expected.

    By the theorem its chance to fail is 0.001; the seeds are fixed, so it fails always or never.
    """
    from speckd.data import encode_prompt
    from speckd.decoding.coins import Coins
    from speckd.decoding.draft_named import fit_draft
    from speckd.decoding.forward import forward_of
    from speckd.decoding.policies import policy_from_text
    from speckd.decoding.rounds import Rounds, Rule

    prompt = encode_prompt(pair.tokenizer, [{"role": "user", "content": "Say 1"}])
    temperature, n_texts = 0.12, 320
    target, policy = forward_of(pair.teacher), policy_from_text("fixed:g=2")
    with torch.inference_mode():
        first = torch.softmax(pair.teacher(torch.tensor([prompt])).logits[0, -1].double() / temperature, 0)
        likely = first.topk(12).indices.tolist()
        rows = pair.teacher(torch.tensor([[*prompt, token] for token in likely])).logits[:, -1].double()
        second = torch.softmax(rows / temperature, -1)
    counts: Counter[tuple[int, int]] = Counter()
    draft = fit_draft(pair, "student", target, policy, True).draft
    for seed in range(n_texts):
        rule = Rule(Coins(seed), temperature=temperature)
        steps = Rounds(target.fresh(), draft.fresh(), rule, policy, prompt, 3)
        text = [token for done in steps for token in done.output]
        counts[text[0], text[1]] += 1
    expected = {
        (a, b): n_texts * float(first[a] * second[row, b]) for row, a in enumerate(likely) for b in range(len(first))
    }
    cells = {pair_: value for pair_, value in expected.items() if value >= 8}
    assert len(cells) >= 8
    rest = n_texts - sum(cells.values())
    statistic = sum((counts[cell] - value) ** 2 / value for cell, value in cells.items())
    statistic += (n_texts - sum(counts[cell] for cell in cells) - rest) ** 2 / rest
    freedom = len(cells)
    # Wilson-Hilferty: the 0.999 quantile of chi-square
    limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < limit


def test_a_sampled_text_is_the_same_for_the_same_seed_and_another_for_another(pair: speckd.Pair) -> None:
    def text(seed: int) -> list[int]:
        ways = {"draft": "student", "policy": "fixed:g=3", "do_sample": True, "plain": False}
        return decode(pair, "Say 2", seed=seed, max_new_tokens=30, **ways).output_ids

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_lenience_below_one_is_marked_lossy_and_accepts_more(pair: speckd.Pair) -> None:
    ways = {"draft": "student", "policy": "fixed:g=3", "do_sample": True, "plain": False, "max_new_tokens": 60}
    strict, lenient = (decode(pair, "Say 2", lenience=epsilon, **ways) for epsilon in (1.0, 0.05))
    assert strict.lossless and not lenient.lossless
    assert lenient.acceptance > strict.acceptance
    with pytest.raises(ValueError, match="lenience is below 1"):
        DecodeRecord.from_dict({**lenient.to_dict(), "lossless": True})
    greedy = decode(
        pair, "Say 2", draft="student", policy="fixed:g=3", lenience=0.05, max_new_tokens=12, continuations=True
    )
    told = facts(greedy)
    assert told["replayed"] == [] and told["costs"]["lengths"] == [], "with another draft the text would be another"


def test_without_a_draft_the_rounds_are_the_plain_loop(pair: speckd.Pair) -> None:
    record = decode(pair, "Say 2", draft="none", max_new_tokens=12)
    assert record.speedup == 1.0 and record.plain_ids == record.output_ids


# --- records --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record(pair: speckd.Pair) -> DecodeRecord:
    return decode(pair, "Say 3", draft="student", policy="fixed:g=3", max_new_tokens=30, continuations=True)


def test_a_record_reads_back_equal(pair: speckd.Pair, record: DecodeRecord, tmp_path: Path) -> None:
    record.to_json(tmp_path / "record.json")
    assert DecodeRecord.from_json(tmp_path / "record.json") == record
    sampled = decode(
        pair, "Say 3", draft="student", policy="tree:width=2:depth=2:nodes=4", max_new_tokens=20, do_sample=True
    )
    assert DecodeRecord.from_json(sampled.to_json()) == sampled
    assert any(step.leftover for step in sampled.rounds) and any(c is not None for s in sampled.rounds for c in s.coins)


def test_every_damage_to_a_record_is_one_sentence(record: DecodeRecord) -> None:
    whole = record.to_json()
    with pytest.raises(ValueError, match="breaks off"):
        DecodeRecord.from_json(whole[: len(whole) // 2])

    def altered(change) -> str:  # type: ignore[no-untyped-def]
        data = json.loads(whole)
        change(data)
        return json.dumps(data)

    step = next(n for n, done in enumerate(record.rounds) if done.n_accepted)
    damages = [
        lambda data: data.update(format="speckd.trace"),
        lambda data: data.update(version=99),
        lambda data: data["output_ids"].append(1),
        lambda data: data["rounds"].pop(),
        lambda data: data["rounds"][step].update(output=[0] * len(data["rounds"][step]["output"])),
        lambda data: data["rounds"][step]["verdicts"].__setitem__(0, "rejected"),
        lambda data: data["rounds"][step].update(kind="gift"),
        lambda data: data["rounds"][step]["tokens"].pop(),
        lambda data: data["rounds"][step].pop("coins"),
        lambda data: data["rounds"][step]["draft_probs"].__setitem__(0, "x"),
        lambda data: data["figures"].update(acceptance=0.99),
        lambda data: data.update(plain_seconds=1e9),
        lambda data: data["continuations"].pop(),
        lambda data: data.update(costs={"rows": [2]}),
        lambda data: data.pop("strings"),
    ]
    for change in damages:
        with pytest.raises(ValueError) as caught:
            DecodeRecord.from_json(altered(change))
        assert "\n" not in str(caught.value)


def test_figures_of_a_record_follow_from_its_rounds(record: DecodeRecord) -> None:
    accepted = sum(step.verdicts.count("accepted") for step in record.rounds)
    rejected = sum(step.verdicts.count("rejected") for step in record.rounds)
    drafted = sum(len(step.tokens) for step in record.rounds)
    assert record.acceptance == accepted / (accepted + rejected)
    assert record.accepted_per_drafted == accepted / drafted
    assert record.block_efficiency == 30 / len(record.rounds)
    assert record.thrown_away == drafted - accepted
    assert record.speedup == pytest.approx(record.plain_seconds / record.seconds)
    assert len(record.continuations) == 30 and all(len(row) == 8 for row in record.continuations)


def test_a_rounds_drafted_tokens_are_the_continuation_kept_at_its_place(record: DecodeRecord) -> None:
    for step in record.rounds:
        kept = [int(token) for token, _, _ in record.continuations[step.start]]
        assert step.tokens == kept[: len(step.tokens)]


# --- mistakes and Stop ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"draft": "medusa"}, "is not a draft here"),
        ({"draft": "student:size=3"}, "has no 'size'"),
        ({"draft": "student:vocab=many"}, "a whole number was expected"),
        ({"draft": "student:vocab"}, "cannot be read"),
        ({"draft": "exit:layer=3"}, "beyond this teacher's depth"),
        ({"draft": "exit:layer=0"}, "choose a whole number from 1"),
        ({"draft": "hispec:draft=2:middle=1"}, "below"),
        ({"draft": "hispec:draft=1:middle=2", "do_sample": True}, "greedy text only"),
        ({"draft": "lookup", "policy": "tree"}, "proposes chains"),
        ({"policy": "greedy"}, "is not a policy here"),
        ({"policy": "fixed:n=3"}, "has no 'n'; its settings are: g"),
        ({"policy": "fixed:g=0"}, "choose a whole number from 1 to 16"),
        ({"policy": "fixed:g=2.5"}, "a whole number was expected"),
        ({"policy": "confidence:p=2"}, "from 0 to 1"),
        ({"policy": "tree:width=4:depth=3:nodes=1000"}, "choose a whole number from 1 to 64"),
        ({"policy": "ddd:x=1"}, "0 or less"),
        ({"temperature": 0.0}, "above 0"),
        ({"temperature": math.nan}, "above 0"),
        ({"lenience": 0.0}, "lossless"),
        ({"max_new_tokens": 0}, "1 or more"),
        ({"seed": -1}, "seed is -1"),
        ({"prompt": "  "}, "The prompt is empty"),
    ],
)
def test_a_mistake_is_one_sentence(pair: speckd.Pair, settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        decode(pair, **{"prompt": "Say 1", "draft": "student", **settings})
    assert "\n" not in str(caught.value)


def test_stop_in_mid_round_ends_it_and_keeps_the_rounds_before(pair: speckd.Pair) -> None:
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 14  # within a round of four draft steps

    with pytest.raises(speckd.DecodingStopped) as caught:
        decode(pair, "Say 3", draft="student", policy="fixed:g=4", should_stop=should_stop, plain=False)
    kept = caught.value.record
    assert kept is not None and 0 < kept.n_tokens < 64
    assert DecodeRecord.from_json(kept.to_json()) == kept
    assert kept.output_ids == own_text(pair, "Say 3", 64)[: kept.n_tokens]
    assert isinstance(caught.value, speckd.Stopped)


def test_progress_tells_the_text_so_far(pair: speckd.Pair) -> None:
    told: list[speckd.Progress] = []
    record = decode(pair, "Say 3", draft="student", policy="cost", max_new_tokens=12, on_progress=told.append)
    assert {event.stage for event in told} == {"costs", "decode"}
    assert [event for event in told if event.stage == "decode"][-1].text == record.text


def test_measured_costs_are_in_teacher_tokens(pair: speckd.Pair) -> None:
    costs = measure_costs(pair, draft="student", repeats=3)
    assert costs.rows[0] == 1 and costs.verify_ratio[0] == 1.0
    assert costs.draft > 0 and costs.seconds > 0
    assert speckd.measure_costs is measure_costs
    with pytest.raises(ValueError, match="several levels"):
        measure_costs(pair, draft="hispec:draft=1:middle=2")


def test_costs_are_ratios_to_the_plain_passes_beside_them(pair: speckd.Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that grows slower with every look at the clock leaves the ratios as they are."""
    target, now = forward_of(pair.teacher), [0.0]
    price = {1: 1.0, 2: 1.5, 3: 1.8}

    class Priced(Meter):
        def _pass_of(self, n_rows: int) -> Callable[[], float]:
            def run() -> float:
                now[0] += 1.0
                return price[n_rows] * (10.0 + now[0])

            return run

    meter = Priced([], target, rows=(1, 2, 3))
    meter.turn(5)
    costs = meter.costs("none")
    assert costs.verify_ratio == (1.0, pytest.approx(1.5, rel=1e-9), pytest.approx(1.8, rel=1e-9)) and costs.draft == 0


def test_ways_in_turns_write_what_each_writes_alone(pair: speckd.Pair) -> None:
    ways = [("student", "fixed:g=2"), ("lookup", "fixed:g=4"), ("exit:layer=1:raw=1", "fixed:g=2"), ("student", "cost")]
    done = decode_in_turns(pair, "Why is it?", ways, max_new_tokens=16, continued=ways[0])
    assert list(done) == [("none", "none"), *ways]
    for (draft, policy), record in done.items():
        alone = decode(pair, "Why is it?", draft=draft, policy=policy, max_new_tokens=16, plain=False)
        assert record.output_ids == alone.output_ids and record.identical
        if policy != "cost":  # which decides by the costs of the moment
            assert [step.output for step in record.rounds] == [step.output for step in alone.rounds]
        assert record.plain_seconds == sum(s.draft_seconds + s.verify_seconds for s in done["none", "none"].rounds)
        assert (record.predicted_speedup is None) == (draft == "none")
    assert done[ways[0]].continuations and not done[ways[1]].continuations


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_rounds_and_figures_and_writes_the_record(
    tiny_folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from speckd.cli.main import main

    options = ["--teacher", str(tiny_folders[0]), "--student", str(tiny_folders[1]), "--device", "cpu"]
    how = ["--draft", "student", "--policy", "fixed:g=2", "--max-new-tokens", "12"]
    assert main(["decode", "Why?", *options, *how, "--costs", "--json", str(tmp_path / "r.json")]) == 0
    printed = capsys.readouterr().out
    record = DecodeRecord.from_json(tmp_path / "r.json")
    assert record.text in printed
    assert "token for token" in printed and "a step of the draft" in printed


@pytest.mark.parametrize("arguments", [["--policy", "fixed:g=99", "--draft", "student"], ["--temperature", "0"]])
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from speckd.cli.main import main

    assert main(["decode", "Why?", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("speckd: ") and said.count("\n") == 1


# --- used elsewhere -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["fixed:g=1", "fixed:g=3", "confidence:p=0.2", "cost"])
def test_a_replayed_policy_makes_the_rounds_that_decoding_made(pair: speckd.Pair, policy: str) -> None:
    from speckd.decoding.costs import Costs
    from speckd.decoding.replay import replay

    costs = Costs((1, 2, 9), (1.0, 1.1, 1.6), 0.05)
    ways = {"draft": "student", "max_new_tokens": 30, "costs": costs, "plain": False}
    source = decode(pair, "Say 4", policy="none", continuations=True, **ways)
    played, run = replay(source, policy), decode(pair, "Say 4", policy=policy, **ways)
    assert played.starts == [step.start for step in run.rounds]
    assert played.drafted == [len(step.tokens) for step in run.rounds]
    assert played.accepted == [step.n_accepted for step in run.rounds]
    assert played.speedup == pytest.approx(run.predicted_speedup)


def test_a_sampled_answer_is_the_same_text_with_and_without_a_draft(pair: speckd.Pair) -> None:
    from speckd.decoding.draft_named import fit_draft
    from speckd.decoding.exact import write_exactly
    from speckd.decoding.forward import forward_of
    from speckd.decoding.policies import Fixed
    from speckd.draws import draw_tokens, row_uniforms

    uniforms = row_uniforms(3, torch.zeros(40, dtype=torch.int64), torch.arange(40), 1)[:, 0, :1]

    def pick(logits: torch.Tensor, place: int) -> int:
        return int(draw_tokens(torch.softmax(logits.double() / 0.3, -1)[None], uniforms[place][None]))

    target = forward_of(pair.teacher)
    plain = write_exactly(pair.teacher, [4, 9], 40, pick=pick)
    rounds: list[int] = []
    for draft in ("student", "lookup:longest=2:least=1", "lookup+student"):
        made = write_exactly(
            pair.teacher,
            [4, 9],
            40,
            pick=pick,
            draft=fit_draft(pair, draft, target, None, False).draft,
            policy=Fixed(g=2),
            on_tokens=lambda ids: rounds.append(len(ids)),
        )
        assert made.ids == plain.ids
        torch.testing.assert_close(made.hidden, plain.hidden, rtol=1e-3, atol=1e-4)
    assert len(rounds) < 120, "nothing that was drafted passed: the test shows nothing"


def test_where_a_draw_hangs_on_a_rounding_one_row_alone_decides(pair: speckd.Pair) -> None:
    from speckd.decoding.draft_named import fit_draft
    from speckd.decoding.exact import write_exactly
    from speckd.decoding.forward import forward_of
    from speckd.decoding.policies import Fixed

    errors: list[float] = []

    def near(logits: torch.Tensor, place: int, error: float) -> bool:
        errors.append(error)
        return place % 3 == 1

    rows: list[int] = []

    def pick(logits: torch.Tensor, place: int) -> int:
        rows.append(place)
        return int(logits.argmax())

    plain = write_exactly(pair.teacher, [4, 9], 20)
    draft = fit_draft(pair, "student", forward_of(pair.teacher), None, False).draft
    made = write_exactly(pair.teacher, [4, 9], 20, pick=pick, near=near, draft=draft, policy=Fixed(g=3))
    assert made.ids == plain.ids and errors and min(errors) > 0
    assert len(rows) > 20, "the draft was never asked"


def test_a_greedy_answer_ends_with_its_stop_token(pair: speckd.Pair) -> None:
    from speckd.decoding.exact import write_exactly

    whole = write_exactly(pair.teacher, [4, 9], 20)
    stop = whole.ids[7]
    cut = write_exactly(pair.teacher, [4, 9], 20, stops=[stop])
    assert cut.finished and cut.ids == whole.ids[: whole.ids.index(stop) + 1]
    assert not whole.finished and whole.hidden.shape[0] == 20
