"""The theorem itself: whatever drafts and however far, the text has exactly the teacher's distribution."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch

from speckd.decoding import rounds as rounds_module
from speckd.decoding import verification
from speckd.decoding.drafts import Draft, LookupDraft, LookupFirst
from speckd.decoding.policies import ChainRule, Policy, policy_from_text
from speckd.decoding.rounds import Round, Rounds, Rule
from tests.speckd.decoding.fakes import EnumeratedCoins, TableDraft, TableForward, table_from

SIZE, LENGTH, PROMPT = 3, 3, [0, 2]
TEACHER, DRAFT = table_from(1, SIZE), table_from(2, SIZE)


def softmax(values: list[float], temperature: float) -> list[float]:
    return torch.softmax(torch.tensor(values, dtype=torch.float64) / temperature, 0).tolist()


def teacher_distribution(temperature: float, length: int = LENGTH, size: int = SIZE) -> dict[tuple[int, ...], float]:
    """p of every text, by the chain rule."""
    distribution = {}
    for text in itertools.product(range(size), repeat=length):
        chance = 1.0
        for place, token in enumerate(text):
            chance *= softmax(TEACHER(tuple(PROMPT) + text[:place]), temperature)[token]
        distribution[text] = chance
    return distribution


def decoded_distribution(
    policy: str,
    temperature: float = 1.0,
    vocabulary: list[int] | None = None,
    lenience: float = 1.0,
    draft: Draft | None = None,
) -> dict[tuple[int, ...], float]:
    """The distribution of the program's texts: every branch of every coin, with its exact chance."""
    distribution: dict[tuple[int, ...], float] = {}
    tried = EnumeratedCoins()
    for coins in tried.branches():
        run = Rounds(
            TableForward(TEACHER, SIZE),
            draft.fresh() if draft is not None else TableDraft(DRAFT, vocabulary),
            Rule(coins=coins, temperature=temperature, lenience=lenience),
            policy_from_text(policy),
            PROMPT,
            LENGTH,
        )
        text = tuple(token for done in run for token in done.output)
        assert len(text) == LENGTH
        distribution[text] = distribution.get(text, 0.0) + coins.chance
    return distribution


def largest_difference(decoded: dict, expected: dict) -> float:
    assert math.isclose(sum(decoded.values()), 1.0, abs_tol=1e-12)
    return max(abs(decoded.get(text, 0.0) - chance) for text, chance in expected.items())


EXACT = [
    ("none", None, 1.0),
    ("fixed:g=1", None, 1.0),
    ("fixed:g=3", None, 1.0),
    ("fixed:g=2", None, 0.6),
    ("fixed:g=2", [0, 2], 1.0),
    ("confidence:p=0.5", None, 1.0),
    ("path:p=0.4", None, 1.0),
    ("tree:width=2:depth=2:nodes=5", None, 1.0),
    ("tree:width=3:depth=2:nodes=4", None, 1.4),
    ("tree:width=2:depth=2:nodes=3", [1, 2], 1.0),
    ("ddd:x=-0.2:width=2:n=2:steps=1:nodes=6", None, 1.0),
]


@pytest.mark.parametrize(("policy", "vocabulary", "temperature"), EXACT)
def test_every_text_has_exactly_the_teachers_probability(
    policy: str, vocabulary: list[int] | None, temperature: float
) -> None:
    decoded = decoded_distribution(policy, temperature, vocabulary)
    assert largest_difference(decoded, teacher_distribution(temperature)) < 1e-12


def test_lookup_before_another_draft_is_exact_too() -> None:
    """The two take turns within a text, and know different vocabularies."""

    class Watched(LookupFirst):
        def fresh(self) -> "Watched":
            return Watched(self.lookup.fresh(), self.then.fresh(), self.name)  # type: ignore[arg-type]

        def commit(self, *more):  # type: ignore[no-untyped-def]
            row = super().commit(*more)
            asked.add(self.looked_up)
            return row

    asked: set[bool] = set()
    for policy, vocabulary in (
        ("fixed:g=2", [1, 2]),
        ("path:p=0.1", None),
        ("tree:width=2:depth=2:nodes=3", None),
        ("ddd:x=-0.6:width=2:n=2:steps=1:nodes=3:p=0.1", [0, 1]),
    ):
        both = Watched(LookupDraft(SIZE, 2, 1), TableDraft(DRAFT, vocabulary), "lookup+table")
        decoded = decoded_distribution(policy, draft=both)
        assert largest_difference(decoded, teacher_distribution(1.0)) < 1e-12
    assert asked == {True, False}, "only one of the two was asked: the test shows nothing"


def test_lenience_is_not_the_teachers_distribution() -> None:
    """So nobody may call it lossless."""
    decoded = decoded_distribution("fixed:g=2", lenience=0.5)
    assert largest_difference(decoded, teacher_distribution(1.0)) > 1e-3


# --- mutants: each breaks the rule in a way that has been shipped somewhere ----------------------------------------


def no_residual(monkeypatch: pytest.MonkeyPatch) -> str:
    """After a rejection a token is drawn from p instead of what p has left over."""
    monkeypatch.setattr(verification, "residual", lambda p, q: p)
    return "fixed:g=2"


def one_coin_for_all(monkeypatch: pytest.MonkeyPatch) -> str:
    """Every node of a round is judged by the same coin."""
    real = EnumeratedCoins.accepts
    monkeypatch.setattr(EnumeratedCoins, "accepts", lambda self, p, start, node: real(self, p, start, 0))
    return "fixed:g=2"


def equality_first(monkeypatch: pytest.MonkeyPatch) -> str:
    """A drafted token that equals the teacher's argmax is accepted before any coin."""
    real = verification.verify_chain

    def mutant(tokens, draft_probabilities, logits, coins, start, temperature=1.0, lenience=1.0):  # type: ignore
        if tokens and tokens[0] == int(logits[0].argmax()):
            rest = real(tokens[1:], draft_probabilities[1:], logits[1:], coins, start, temperature, lenience)
            rest.path = [0, *(node + 1 for node in rest.path)]
            return rest
        return real(tokens, draft_probabilities, logits, coins, start, temperature, lenience)

    monkeypatch.setattr(rounds_module, "verify_chain", mutant)
    return "fixed:g=1"


def siblings_without_renormalising(monkeypatch: pytest.MonkeyPatch) -> str:
    """In a tree, the second sibling is tried against p itself, as if the first had never been."""

    def mutant(tokens, parents, logits, coins, start, temperature=1.0, lenience=1.0):  # type: ignore
        verdict, children, node = verification.Verdict(), verification.children_of(parents), -1
        while True:
            p = verification.probabilities(logits[node + 1], temperature)
            passing = [c for c in children.get(node, []) if coins.accepts(float(p[tokens[c]]), start, c)[0]]
            if not passing:
                verdict.token = coins.draw(p, 6, start)
                return verdict
            node = passing[0]
            verdict.path.append(node)

    monkeypatch.setattr(rounds_module, "verify_tree", mutant)
    return "tree:width=2:depth=2:nodes=4"


def stop_after_an_unlikely_draw(monkeypatch: pytest.MonkeyPatch) -> str:
    """A stopping rule that reads a drawn token and throws it away."""
    real = Rounds._grow_chain

    def mutant(self, row, drafted, most, start):  # type: ignore
        made = real(self, row, drafted, most, start)
        if made.logprobs and made.logprobs[-1] < math.log(0.4):
            for column in (made.tokens, made.parents, made.logprobs, made.paths, made.draft_nodes):
                column.pop()
            made.probabilities.pop()
        return made

    monkeypatch.setattr(Rounds, "_grow_chain", mutant)
    return "fixed:g=1"


def coins_shared_with_the_draft(monkeypatch: pytest.MonkeyPatch) -> str:
    """The coin that judges a token is the uniform that drew it: one stream for two uses."""
    real = EnumeratedCoins.draw

    def mutant(self, weights, stream, start, node=0):  # type: ignore
        from speckd.draws import Stream

        return real(self, weights, Stream.VERIFY if stream == Stream.DRAFT else stream, start, node)

    monkeypatch.setattr(EnumeratedCoins, "draw", mutant)
    return "fixed:g=1"


MUTANTS: list[Callable[[pytest.MonkeyPatch], str]] = [
    no_residual,
    one_coin_for_all,
    equality_first,
    siblings_without_renormalising,
    stop_after_an_unlikely_draw,
    coins_shared_with_the_draft,
]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_enumeration_finds_a_broken_rule(
    mutant: Callable[[pytest.MonkeyPatch], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = decoded_distribution(mutant(monkeypatch))
    assert largest_difference(decoded, teacher_distribution(1.0)) > 1e-4


# --- greedy ---------------------------------------------------------------------------------------------------------


def greedy_text(length: int, prompt: list[int], table=TEACHER) -> list[int]:  # type: ignore[no-untyped-def]
    text = list(prompt)
    for _ in range(length):
        logits = table(tuple(text))
        text.append(max(range(len(logits)), key=lambda token: logits[token]))
    return text[len(prompt) :]


def decode_greedily(policy: str | Policy, length: int = 40, size: int = 12, sharpness: float = 0.7, **settings):  # type: ignore
    teacher = table_from(3, size)
    noise = table_from(4, size)

    def near(context):  # type: ignore[no-untyped-def]
        return [a + sharpness * b for a, b in zip(teacher(context), noise(context), strict=True)]

    target, draft = TableForward(teacher, size), TableDraft(near)
    chosen = policy_from_text(policy) if isinstance(policy, str) else policy
    done = list(Rounds(target, draft, Rule(), chosen, [1, 5], length, **settings))
    return target, draft, done, greedy_text(length, [1, 5], teacher)


@pytest.mark.parametrize(
    "policy", ["fixed:g=4", "confidence:p=0.3", "path:p=0.2", "tree:width=3:depth=3:nodes=9", "ddd:x=-1:steps=2+3"]
)
def test_greedy_text_is_the_teachers_own(policy: str) -> None:
    target, _, done, expected = decode_greedily(policy)
    assert [token for step in done for token in step.output] == expected
    accepted = sum(len(step.verdict.path) for step in done)
    assert 5 < accepted < 38, "a test where all or nothing is accepted shows nothing"
    # the cache holds the text without its last token, in order, and nothing was fed twice but rejected drafts
    assert [token for _, token in target.cache] == [1, 5, *expected][: len(target.cache)]
    assert len(target.cache) == 2 + 40 - 1
    drafted = sum(len(step.drafted.tokens) for step in done)
    assert sum(target.passes) == 1 + len(done) + drafted


def test_a_draft_that_is_always_right_brings_g_plus_one_tokens_a_round() -> None:
    _, _, done, expected = decode_greedily("fixed:g=3", sharpness=0.0)
    assert [len(step.output) for step in done] == [4] * 10
    assert [token for step in done for token in step.output] == expected


def test_a_round_never_drafts_past_the_last_token() -> None:
    _, _, done, expected = decode_greedily("fixed:g=8", length=5, sharpness=0.0)
    assert [len(step.drafted.tokens) for step in done] == [4]
    assert done[0].output == expected


def test_nothing_is_drafted_after_a_stop_token_and_the_text_ends_with_it() -> None:
    expected = greedy_text(40, [1, 5], table_from(3, 12))
    stop = expected[6]
    _, _, done, _ = decode_greedily("fixed:g=4", sharpness=0.0, stops=[stop])
    text = [token for step in done for token in step.output]
    assert text == expected[: expected.index(stop) + 1]
    for step in done:
        assert stop not in step.drafted.tokens[:-1]


def test_a_near_tie_is_decided_by_one_row_and_counted() -> None:
    def tied(context: tuple[int, ...]) -> list[float]:
        return [1.0, 1.0 + 1e-9, 0.0] if len(context) % 3 == 0 else [0.0, 0.5, 2.0]

    target = TableForward(tied, 3)
    done: list[Round] = list(
        Rounds(target, TableDraft(tied), Rule(near_tie=1e-6), policy_from_text("fixed:g=4"), [1], 12)
    )
    assert [token for step in done for token in step.output] == greedy_text(12, [1], tied)
    decided = [step for step in done if step.near_tie]
    assert len(decided) == 4  # every third place
    assert target.passes.count(1) == len(decided)
    assert len(target.cache) == 12


class _Always(ChainRule):
    pass


def test_a_draft_is_not_asked_where_its_rule_sees_no_gain_and_reads_all_it_missed_later() -> None:
    class EveryThird(Policy):
        name = "third"

        def begin(self, costs):  # type: ignore[no-untyped-def]
            rule = _Always(3)
            rounds = iter(range(1000))
            rule.looks = lambda n, path: n > 0 or next(rounds) % 3 == 0  # type: ignore[method-assign]
            return rule

    _, draft, done, expected = decode_greedily(EveryThird())
    assert [token for step in done for token in step.output] == expected
    assert draft.n_features == len(draft.text)
    assert draft.text == [1, 5, *expected][: len(draft.text)]
