"""The final test: ten cases drawn anew from traces and runs, each about another thing that was to be learned.

A case is an exercise like those of the lessons, so its key is computed, its reason said, and its picture shown. A draw
is named by a number and always the same for it: a page that has no server may keep a few of them as files.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

from app.lessons import exercises
from app.lessons.facts import TraceFacts, trace_facts
from app.lessons.filling import filled, state_for_page
from app.lessons.languages import ENGLISH, Language
from app.lessons.reading import MAIN_TRACE
from app.lessons.roles import readable
from app.lessons.run_facts import run_facts
from app.lessons.scene import Scene
from app.lessons.values import Unmet

ID = "final"
MINUTES = 8
N_CASES = 10
N_DRAWS = 10_000  # draws are numbered from 0 to this
TRACES = ("healed", "young", "written-by-the-student")
RUNS = ("default", "cold-start", "warm", "curriculum")
KNOBS = {"gate": "topk", "k": 5, "beta": 0.01, "divergence": "forward_kl"}
PLAIN = {"view": ["verdict"], "parts": ["lists"], "point": [], "controls": "none", "plain": True, "charts": [],
         "lanes": [], **KNOBS}  # fmt: skip

LENGTHS = {"short": 1, "middling": 4, "long": 10}  # drafts to choose from

Settings = dict[str, str]
# A kind of case proposes, in random order, what could be asked: the settings of an exercise, and what its step shows.
Proposal = tuple[Settings, dict[str, Any]]
Kind = Callable[[random.Random, str, TraceFacts], Iterator[Proposal]]
KINDS: dict[str, tuple[Kind, tuple[str, int]]] = {}


def a_case(lesson: str, step: int) -> Callable[[Kind], Kind]:
    """Where to read again when it went wrong."""

    def keep(kind: Kind) -> Kind:
        KINDS[kind.__name__] = (kind, (lesson, step))
        return kind

    return keep


def _tokens(rng: random.Random, f: TraceFacts) -> list[int]:
    """The quotable tokens of a text, shuffled."""
    fit = [row.t for row in f.rows if all(map(readable, (row.token, row.proposal, row.favourite)))]
    rng.shuffle(fit)
    return fit


def _three(rng: random.Random, f: TraceFacts) -> Iterator[list[int]]:
    """Triples of tokens with three different words."""
    fit = _tokens(rng, f)
    for i in range(len(fit) - 2):
        chosen = fit[i : i + 3]
        if len({f.rows[t].token.strip() for t in chosen}) == 3:
            yield sorted(chosen)


def _acceptance(t: int, k: int) -> Settings:
    return {"kind": "predict-accept", "token": str(t + 1), "gate": "topk", "k": str(k)}


@a_case("gate", 1)
def top_k(rng: random.Random, name: str, f: TraceFacts) -> Iterator[Proposal]:
    """Is this proposal accepted, just above the boundary or just below it?"""
    above = rng.random() < 0.5
    for t in _tokens(rng, f):
        row = f.rows[t]
        k = row.rank if above else row.rank - 1
        if row.differs and 2 <= k <= 10:
            yield (
                {"kind": "predict-accept", "token": str(t + 1), "gate": "topk", "k": str(k)},
                {"trace": name, "pin": t},
            )


@a_case("gate", 2)
def own_word(rng: random.Random, name: str, f: TraceFacts) -> Iterator[Proposal]:
    """The proposal is the text's word, or is not: the gate asks neither."""
    for t in _tokens(rng, f):
        row = f.rows[t]
        same = row.own_rank == row.rank and row.rank > 1
        if (same and row.rank > 5) or (not same and 1 < row.rank <= 5 and row.differs):
            yield _acceptance(t, 5), {"trace": name, "pin": t}


@a_case("propose-verify", 3)
def one_draw(rng: random.Random, name: str, f: TraceFacts) -> Iterator[Proposal]:
    """At which token would one draw most likely pass?"""
    for chosen in _three(rng, f):
        lines = "\n".join(
            f"{{{{token at={t + 1}}}}}: {{{{favourite at={t + 1}}}}}, {{{{p of=favourite at={t + 1}}}}} / "
            f"{{{{q of=favourite at={t + 1}}}}} | passes at={t + 1}"
            for t in chosen
        )
        best = min(chosen, key=lambda t: f.rows[t].tvd)
        shared = sorted(min(f.rows[t].favourite_p, f.rows[t].favourite_q) for t in chosen)
        if min(f.rows[best].favourite_p, f.rows[best].favourite_q) == shared[-1] >= shared[-2] + 0.15:
            reveal = f"pin={best + 1} parts=lists+chances"
            yield {"kind": "choose-number", "options": lines, "reveal": reveal}, {"trace": name, "pin": chosen[0]}


@a_case("propose-verify", 1)
def ratio(rng: random.Random, name: str, f: TraceFacts) -> Iterator[Proposal]:
    """Which proposal passes its coin most often? Its probabilities are told."""
    for chosen in _three(rng, f):
        chances = sorted(f.rows[t].passes for t in chosen)
        if chances[-1] - chances[-2] < 0.15:
            continue
        lines = "\n".join(
            f"{{{{proposal at={t + 1}}}}}: {{{{q at={t + 1}}}}}, {{{{p at={t + 1}}}}} | proposal_passes at={t + 1}"
            for t in chosen
        )
        best = max(chosen, key=lambda t: f.rows[t].passes)
        reveal = f"pin={best + 1} parts=lists+chances"
        yield {"kind": "choose-number", "options": lines, "reveal": reveal}, {"trace": name, "pin": chosen[0]}


@a_case("two-minds", 3)
def entropy(rng: random.Random, name: str, f: TraceFacts) -> Iterator[Proposal]:
    """Where is the teacher least sure? Its favourite's probability is told."""
    for chosen in _three(rng, f):
        order = sorted(chosen, key=lambda t: -f.rows[t].teacher_entropy)
        flat, next_ = f.rows[order[0]], f.rows[order[1]]
        if flat.teacher_entropy < next_.teacher_entropy + 0.8 or flat.favourite_p > next_.favourite_p - 0.15:
            continue
        lines = "\n".join(
            f"{{{{token at={t + 1}}}}}: {{{{p of=favourite at={t + 1}}}}} | entropy at={t + 1}" for t in chosen
        )
        reveal = f"pin={order[0] + 1} view=lanes+verdict lanes=teacher_entropy parts=facts"
        yield {"kind": "choose-number", "options": lines, "reveal": reveal}, {"trace": name, "pin": chosen[0]}


@a_case("imitate", 4)
def loss(rng: random.Random, name: str, f: TraceFacts) -> Iterator[Proposal]:
    """Which token weighs most? What both models give to the teacher's word is told."""
    for chosen in _three(rng, f):
        order = sorted(chosen, key=lambda t: -f.rows[t].forward)
        heavy = f.rows[order[0]]
        if not (heavy.forward > 2 * f.rows[order[1]].forward and heavy.favourite_q < 0.1 * heavy.favourite_p):
            continue
        lines = "\n".join(
            f"{{{{favourite at={t + 1}}}}}: {{{{p of=favourite at={t + 1}}}}}, {{{{q of=favourite at={t + 1}}}}}"
            f" | divergence at={t + 1}"
            for t in chosen
        )
        reveal = f"pin={order[0] + 1} view=lanes+verdict lanes=divergence parts=sum"
        yield {"kind": "choose-number", "options": lines, "reveal": reveal}, {"trace": name, "pin": chosen[0]}


@a_case("divergences", 1)
def direction(rng: random.Random, name: str, f: TraceFacts) -> Iterator[Proposal]:
    """Forward or reverse KL: which is larger where a word is missing, or where the student scatters?"""
    for t in _tokens(rng, f):
        row = f.rows[t]
        missed = row.favourite_p >= 0.5 and row.favourite_q <= 0.02 and row.forward >= 1.2 * row.reverse
        torn = row.favourite_p >= 0.9 and row.student_entropy >= 2 and row.reverse >= 1.2 * row.forward
        if missed or torn:
            lines = f"{{{{name key=divergence.forward_kl}}}} | divergence at={t + 1} divergence=forward_kl\n" \
                    f"{{{{name key=divergence.reverse_kl}}}} | divergence at={t + 1} divergence=reverse_kl"  # fmt: skip
            told = {"kind": "choose-number", "options": lines, "reveal": "parts=lists+sum controls=all"}
            told |= {"at": str(t + 1), "words": "missed" if missed else "torn"}
            yield told, {"trace": name, "pin": t}


@a_case("weights", 2)
def beta(rng: random.Random, name: str, f: TraceFacts) -> Iterator[Proposal]:
    """The gated loss at another beta, from its two ends."""
    pin = _tokens(rng, f)[0]
    for _ in range(5):
        k, at = rng.choice((1, 3, 5, 8)), rng.choice(("0.25", "0.5", "0.75"))
        other = {"0.25": "blend beta=0.75", "0.5": "multiple of=0.5 beta=0", "0.75": "blend beta=0.25"}[at]
        told = {
            "kind": "choose-value", "answer": f"blend beta={at}", "others": f"loss beta=0\nplain\n{other}",
            "k": str(k), "beta": at, "reveal": "controls=all parts=lists+sum",
        }  # fmt: skip
        yield told, {"trace": name, "pin": pin, "k": k}


@a_case("speed", 2)
def speed(rng: random.Random, name: str, f: TraceFacts) -> Iterator[Proposal]:
    """Which draft length is the fastest, at a chance and a cost that are told?"""
    pin = _tokens(rng, f)[0]
    for _ in range(20):
        a, cost = rng.choice((0.2, 0.3, 0.5, 0.8, 0.9, 0.95)), rng.choice((0.02, 0.05, 0.1, 0.25))
        lines = "\n".join(f"{{{{setting name={word}}}}} | speedup a={a} draft={g}" for word, g in LENGTHS.items())
        told = {"kind": "choose-number", "options": lines, "reveal": "parts=lists+chances"}
        yield told, {"trace": name, "pin": pin, "cost": cost, "chance": a, **LENGTHS}


@a_case("gate", 5)
def temperature(rng: random.Random, name: str, f: TraceFacts) -> Iterator[Proposal]:
    """Which gate notices that all scores were divided by the same number?"""
    k, hot = rng.choice((3, 5, 8)), rng.choice(("hot", "cool"))
    lines = "\n".join(
        f"{{{{gate gate={gate}}}}} | tar gate={gate} k={k} text=healed near tar gate={gate} k={k} text={hot}"
        for gate in ("topk", "speck")
    )
    told = {"kind": "choose-claim", "options": lines, "k": str(k), "reveal": f"gate=speck k={k} controls=primary"}
    yield told, {"trace": hot, "pin": 0, "k": k}


@a_case("weights", 3)
def runs(rng: random.Random, name: str, f: TraceFacts) -> Iterator[Proposal]:
    """Two logs with two losses: whose student is nearer to the teacher?"""
    for run in rng.sample(RUNS, len(RUNS)):
        told = {
            "kind": "run-end",
            "quantity": "divergence",
            "rule": "smallest",
            "reveal": "step=last charts=divergence+loss",
        }
        yield told, {"run": run, "view": ["race"], "charts": ["loss"], "racer": 0, "step": "first"}


def draw(number: int, own: TraceFacts | None = None, language: Language = ENGLISH) -> dict[str, Any]:
    """Ten cases as a lesson for the page: one step each, and one with the outcome.

    Args:
        number: names the draw, 0 to N_DRAWS.
        own: a visitor's sentence, in place of the main trace.
    """
    rng = random.Random(number)
    steps, cases = [], []
    for i, kind in enumerate(rng.sample(list(KINDS), N_CASES)):
        name = f"{ID}-{number}.{i}"
        steps.append(_case(rng, kind, own, language, name))
        lesson, step = KINDS[kind][1]
        cases.append({"id": name, "lesson": lesson, "step": step, "about": language.word(f"final.{kind}")})
    end = {
        "tag": "outcome",
        "cases": cases,
        **{name: language.word(f"final.{name}") for name in ("all", "again", "none")},
    }
    steps.append({"title": [language.word("final.end")], "state": steps[-1]["state"], "body": [end]})
    return {"id": ID, "title": language.word("final.title"), "minutes": MINUTES, "draw": number, "steps": steps}


def _case(rng: random.Random, kind: str, own: TraceFacts | None, language: Language, name: str) -> dict[str, Any]:
    """One case: the first proposal of this kind that has one clear answer, in any of the texts."""
    for trace in rng.sample(TRACES, len(TRACES)):
        facts = own if own is not None and trace == MAIN_TRACE else trace_facts(trace)
        for settings, shows in KINDS[kind][0](rng, trace, facts):
            scene = _scene(trace, facts, shows, language)
            try:
                task = exercises.make({**settings, **_words(kind, settings, scene)}, scene)
                body = [filled({**task, "id": name}, scene)]
            except Unmet:
                continue
            return {
                "title": [language.word(f"final.{kind}")],
                "state": state_for_page(scene.settings, scene),
                "body": body,
            }
    raise Unmet(f"no text has a case of {kind}")


def _scene(trace: str, facts: TraceFacts, shows: dict[str, Any], language: Language) -> Scene:
    settings = {**PLAIN, **shows}
    if "run" in shows:
        return Scene(run=run_facts(shows["run"]), settings=settings, language=language)
    shown = facts if shows["trace"] == trace else trace_facts(shows["trace"])
    return Scene(trace=shown, settings={**settings, "pin": shows["pin"] + 1}, language=language)


def _words(kind: str, settings: Settings, scene: Scene) -> Settings:
    """The question and its reason, from the table."""
    key = f"final.{settings.get('words', kind)}"
    at = settings.get("at", str(scene.settings.get("pin", "")))
    why = f"{key}.why"
    if settings["kind"] == "predict-accept":
        row = scene.row(int(settings["token"]))
        why = "why.topk.accepted" if row.rank <= int(settings["k"]) else "why.topk.rejected"
    return {"ask": scene.name(f"{key}.ask").replace("ROLE", at), "why": scene.name(why)}
