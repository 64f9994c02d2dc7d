"""Exercises: a question, what can be answered, and the answer as the trace or run on screen gives it.

An exercise is written as settings in a fenced block; its answer key is never written, always computed here. The page
gets
    {"tag": "exercise", "kind", "ask", "options" | "items" | "reasons", "answer", "reason", "reveal"}
with one of three forms: ``choice`` (options, one is right), ``threshold`` (a k to find) and ``order`` (a list to sort).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from app.lessons import fields
from app.lessons.facts import USUAL_K
from app.lessons.fields import GATES, SELECTORS, Scene, Value, evaluate, ordinal, percent
from app.lessons.text import read_inline

K_MAX = 50
Exercise = dict[str, Any]
Maker = Callable[[Mapping[str, str], Scene], Exercise]
KINDS: dict[str, Maker] = {}


class Unfit(ValueError):
    """A text has nothing that this exercise could ask about: no rejected token, or all options alike."""


def a_kind(name: str) -> Callable[[Maker], Maker]:
    def keep(maker: Maker) -> Maker:
        KINDS[name] = maker
        return maker

    return keep


def make(settings: Mapping[str, str], scene: Scene) -> Exercise:
    """The exercise on this scene. Its texts may hold fields that are still to be filled.

    Raises:
        Unfit: the text has nothing that could be asked.
        ValueError: there is no such kind, or it does not fit the scene.
    """
    kind = settings.get("kind", "")
    if kind not in KINDS:
        raise ValueError(f"There is no kind of exercise {kind!r}: choose one of {', '.join(KINDS)}.")
    knobs = {name: _number(settings[name]) for name in fields.KNOBS if name in settings}
    try:
        exercise = KINDS[kind](settings, scene.with_(**knobs))
    except KeyError as error:
        raise ValueError(f"The exercise {kind!r} lacks {error}.") from None
    if "answer" in exercise and exercise["form"] == "choice":
        exercise.setdefault("right", [exercise["answer"]])
        if len(exercise["right"]) == len(exercise["options"]):
            raise Unfit("all options are right")
    if "ask" in settings:
        exercise["ask"] = read_inline(settings["ask"])
    if "after" in settings:  # a thought that follows the right answer
        exercise["after"] = read_inline(settings["after"])
    return {"tag": "exercise", "kind": kind, "knobs": knobs, **exercise}


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def quote(text: str) -> dict[str, Any]:
    return {"tag": "token", "text": text}


# --- one option is right ------------------------------------------------------------------------------------------


@a_kind("predict-accept")
def predict_accept(settings: Mapping[str, str], s: Scene) -> Exercise:
    """Will this token be accepted? Settings: token (a role), gate, k."""
    t = s.place(settings["token"])
    kind, k = s.knobs["gate"], s.knobs["k"]
    accepted = s.text.accepted(s.knobs)[t]
    proposal = quote(s.text.text_of(s.text.columns["proposal_ids"][t]))
    if kind == "topk":
        rank = s.text.columns["topk_threshold"][t]
        compared = "not more" if accepted else "more"
        reason = [
            "The proposal ",
            proposal,
            f" is the teacher’s {ordinal(rank)}, and {rank:,} is {compared} than k = {k}",
        ]
    else:
        first = s.text.columns["speck_threshold"][t]
        found = f"draw {first} is the first whose coin lies under its bar" if first <= K_MAX else "no draw ever passes"
        reason = [f"Of the draws here, {found}, and k = {k} allows {k}"]
    reason.append(f": {'accepted' if accepted else 'rejected'}.")
    ask = ["Token ", {"tag": "field", "spec": f"place at={settings['token']}"}, " of the text is ",
           quote(s.text.trace.tokens[t]), ". Will ", GATES[kind], f" accept it at k = {k}?"]  # fmt: skip
    return {
        "form": "choice", "ask": ask, "options": [["accepted"], ["rejected"]], "answer": 0 if accepted else 1,
        "reason": reason, "reveal": {"knobs": {"gate": kind, "k": k}, "pin": t},
    }  # fmt: skip


@a_kind("most-loss")
def most_loss(settings: Mapping[str, str], s: Scene) -> Exercise:
    """Which of these tokens carries the most loss? Settings: tokens (roles), divergence."""
    places = sorted({s.place(role) for role in settings["tokens"].split()})
    values = s.text.divergence(s.knobs["divergence"])
    answer = max(range(len(places)), key=lambda i: values[places[i]])
    total = sum(values)
    reason: list[Any] = ["Their shares of the plain loss: "]
    for i, t in enumerate(places):
        reason += ["; " if i else "", quote(s.text.trace.tokens[t]), f" {percent(values[t] / total)}"]
    options = [[quote(s.text.trace.tokens[t]), f" (token {t + 1})"] for t in places]
    return {
        "form": "choice", "ask": ["Which of these tokens carries the most loss?"], "options": options, "answer": answer,
        "reason": [*reason, "."], "reveal": {"pin": places[answer]},
    }  # fmt: skip


@a_kind("choose-number")
def choose_number(settings: Mapping[str, str], s: Scene) -> Exercise:
    """Which is larger (or smaller)? Settings: ask, rule, options: lines of ``words | field``."""
    options, values = [], []
    for line in settings["options"].splitlines():
        words, _, spec = line.rpartition("|")
        options.append(read_inline(words.strip()))
        values.append(evaluate(spec.strip(), s))
    answer = _extreme(settings.get("rule", "largest"), values)
    return {
        "form": "choice", "options": options, "answer": answer, "right": _equals(values, answer),
        "reason": _all_values(options, values), "reveal": _reveal(settings, s),
    }  # fmt: skip


@a_kind("run-lower")
def run_lower(settings: Mapping[str, str], s: Scene) -> Exercise:
    """Which racer ends lower (or higher)? Settings: quantity, rule (smallest, largest), of (held_out, row, probe)."""
    quantity, of = settings["quantity"], settings.get("of", "held_out")
    values = [fields.run(s, quantity, i, "last", of) for i in range(len(s.race.racers))]
    options: list[list[Any]] = [[f"{'AB'[i]}: {name}"] for i, name in enumerate(s.race.racers)]
    answer = _extreme(settings.get("rule", "smallest"), values)
    return {
        "form": "choice", "options": options, "answer": answer, "right": _equals(values, answer),
        "reason": ["At the end, ", *_all_values(options, values)], "reveal": {"step": s.race.steps},
    }  # fmt: skip


@a_kind("run-cross")
def run_cross(settings: Mapping[str, str], s: Scene) -> Exercise:
    """At which step does a quantity first reach a value? Settings: quantity, value, racer, of, steps to choose from."""
    quantity, of, racer = settings["quantity"], settings.get("of", "held_out"), int(settings.get("racer", "0"))
    value = float(settings["value"])
    points = s.race.series(quantity, racer, of, s.knobs["k"])
    crossed = s.race.cross(quantity, value, racer, of, s.knobs["k"])
    steps = [at for at, _ in points]
    places = sorted({0, len(steps) // 4, len(steps) // 2, 3 * len(steps) // 4, len(steps) - 1})
    if crossed is not None:
        places = sorted({*places, steps.index(crossed)})
    chosen = [steps[i] for i in places]
    options = [[f"step {at}"] for at in chosen] + [["not in this run"]]
    shown = [f"{percent(one)} at step {at}" for at, one in points if at in chosen]
    answer = len(chosen) if crossed is None else chosen.index(crossed)
    return {
        "form": "choice", "options": options, "answer": answer, "reason": ["; ".join(shown) + "."],
        "reveal": {"step": s.race.steps if crossed is None else crossed},
    }  # fmt: skip


def _extreme(rule: str, values: list[Value]) -> int:
    numbers = [float(value.number) if value.number is not None else float("nan") for value in values]
    if rule not in ("largest", "smallest"):
        raise ValueError(f"The rule {rule!r} is not known: choose largest or smallest.")
    if any(math.isnan(one) for one in numbers):
        raise Unfit(f"the values are {[value.text for value in values]}")
    return numbers.index(max(numbers) if rule == "largest" else min(numbers))


def _equals(values: list[Value], answer: int) -> list[int]:
    """The options that are as right as the answer: where two values are shown alike, either may be chosen."""
    return [i for i, value in enumerate(values) if value.text == values[answer].text]


def _all_values(options: list[list[Any]], values: list[Value]) -> list[Any]:
    reason: list[Any] = []
    for i, (option, value) in enumerate(zip(options, values, strict=True)):
        reason += ["; " if i else "", *option, f": {value.text}"]
    return [*reason, "."]


def _reveal(settings: Mapping[str, str], s: Scene) -> dict[str, Any]:
    """What the picture turns to after the answer: ``reveal: gate=speck k=1 pin=role``."""
    reveal: dict[str, Any] = {}
    knobs: dict[str, Any] = {}
    for part in settings.get("reveal", "").split():
        name, _, value = part.partition("=")
        if name == "pin":
            reveal["pin"] = s.place(value)
        elif name == "view":
            reveal["view"] = value.split("+")
        else:
            knobs[name] = _number(value)
    return {**reveal, "knobs": knobs} if knobs else reveal


# --- a k to find, a list to sort ----------------------------------------------------------------------------------


@a_kind("threshold")
def threshold(settings: Mapping[str, str], s: Scene) -> Exercise:
    """At which k does TAR first reach a value? Settings: reach (a share), gate."""
    reach = float(settings["reach"])
    tars = [s.text.tar({**s.knobs, "k": k}) for k in range(1, K_MAX + 1)]
    highest = max(tars)
    if highest < reach:  # a sentence of one's own may never get there: ask for what it does reach
        reach = highest
    answer = next(k for k, tar in enumerate(tars, 1) if tar >= reach)
    before = f"At k = {answer - 1} it is still {percent(tars[answer - 2])}. " if answer > 1 else ""
    reasons = []
    for k, tar in enumerate(tars, 1):
        if k == answer:
            reasons.append(f"{before}At k = {k} the gate accepts {percent(tar)}.")
        elif tar < reach:
            reasons.append(f"At k = {k} the gate accepts {percent(tar)}: not yet {percent(reach)}. Go higher.")
        else:
            reasons.append(
                f"At k = {k} the gate accepts {percent(tar)}, but it reached {percent(reach)} before. Go lower."
            )
    gate = GATES[s.knobs["gate"]]
    ask = f"At which k does the TAR of {gate} first reach {percent(reach)}? Guess, then check."
    return {
        "form": "threshold", "ask": [ask],
        "first": USUAL_K, "last": K_MAX, "answer": answer, "reasons": reasons, "gate": s.knobs["gate"],
        "reveal": {"knobs": {"gate": s.knobs["gate"]}},
    }  # fmt: skip


@a_kind("order")
def order(settings: Mapping[str, str], s: Scene) -> Exercise:
    """Sort selectors by agreement with the gate, the highest first. Settings: selectors, by (jaccard or kept_share)."""
    names = settings["selectors"].split()
    measure = {"jaccard": fields.jaccard, "kept_share": fields.kept_share}[settings.get("by", "jaccard")]
    values = [measure(s, name) for name in names]
    answer = sorted(range(len(names)), key=lambda i: (-(values[i].number or 0.0), i))
    if answer == list(range(len(names))):  # the list must not begin in its right order
        names, values = names[1:] + names[:1], values[1:] + values[:1]
        answer = sorted(range(len(names)), key=lambda i: (-(values[i].number or 0.0), i))
    reason = "; ".join(f"{SELECTORS[names[i]]} {values[i].text}" for i in answer)
    return {
        "form": "order", "items": [[SELECTORS[name]] for name in names], "answer": answer,
        "values": [values[i].number for i in range(len(names))], "reason": [f"From the top: {reason}."],
        "reveal": _reveal(settings, s),
    }  # fmt: skip
