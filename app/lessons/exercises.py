"""Exercises: a question, what can be answered, why, and the answer as the trace or run on screen gives it.

An exercise is written as settings in a fenced block; its answer key is never written, always computed here. The page
gets
    {"tag": "exercise", "kind", "form", "ask", "options" | "items", "right" | "answer", "why", "reason", "reveal"}
in one of two forms: ``choice`` (options, of which ``right`` are true) and ``order`` (a list to sort). ``why`` is the
reason in a sentence, ``reason`` the numbers behind it, ``reveal`` what the picture turns to, so that one sees it.

A question is asked only where its answer is clear: where the two best options are written alike, there is none.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from app.lessons.claims import holds
from app.lessons.scene import KNOBS, Scene, evaluate, read_number
from app.lessons.text import read_inline, walk
from app.lessons.values import Unmet, Value, apart

Exercise = dict[str, Any]
Maker = Callable[[Mapping[str, str], Scene], Exercise]
KINDS: dict[str, Maker] = {}
LISTS = ("view", "parts", "lanes", "charts")  # what a reveal may turn, beside the knobs, pin, controls and step


def a_kind(name: str) -> Callable[[Maker], Maker]:
    def keep(maker: Maker) -> Maker:
        KINDS[name] = maker
        return maker

    return keep


def make(settings: Mapping[str, str], scene: Scene) -> Exercise:
    """The exercise on this scene. Its texts may hold fields that are still to be filled.

    Raises:
        Unmet: the text has nothing that could be asked, or no clear answer.
        ValueError: there is no such kind, or it does not fit the scene.
    """
    kind = settings.get("kind", "")
    if kind not in KINDS:
        raise ValueError(f"There is no kind of exercise {kind!r}: choose one of {', '.join(KINDS)}.")
    knobs = {name: read_number(settings[name]) for name in KNOBS if name in settings}
    try:
        exercise = KINDS[kind](settings, scene.with_(**knobs))
    except KeyError as error:
        raise ValueError(f"The exercise {kind!r} lacks {error}.") from None
    for name in ("ask", "why"):
        if name in settings:
            exercise[name] = read_inline(settings[name])
        elif name not in exercise:
            raise ValueError(f"The exercise {kind!r} lacks {name!r}.")
    exercise["reveal"] = {**exercise.get("reveal", {}), **_reveal(settings, scene)}
    if exercise["reveal"].get("knobs", {}).get("gate") in ("topk", "speck"):
        exercise["reveal"]["plain"] = False  # a picture that showed no verdicts shows them now
    if not exercise["reveal"]:
        raise ValueError(f"The exercise {kind!r} reveals nothing in the picture.")
    return {"tag": "exercise", "kind": kind, "knobs": knobs, **exercise}


def _said(scene: Scene, key: str, role: str = "") -> list[Any]:
    """A sentence of the table, about the token of a role."""
    return read_inline(scene.name(key).replace("ROLE", role))


# --- one option is right ------------------------------------------------------------------------------------------


@a_kind("predict-accept")
def predict_accept(settings: Mapping[str, str], s: Scene) -> Exercise:
    """Will Top-k accept this token? Settings: token (a role), k."""
    role = settings["token"]
    t, k = s.place(role), s.knobs["k"]
    accepted = s.text.accepted({**s.knobs, "gate": "topk"})[t]
    verdict = "accepted" if accepted else "rejected"
    return {
        "form": "choice", "ask": _said(s, "ask.topk", role), "options": [[s.name("accepted")], [s.name("rejected")]],
        "right": [0 if accepted else 1], "why": _said(s, f"why.topk.{verdict}"),
        "reason": _said(s, "numbers.topk", role), "reveal": {"knobs": {"gate": "topk", "k": k}, "pin": t},
    }  # fmt: skip


@a_kind("most-loss")
def most_loss(settings: Mapping[str, str], s: Scene) -> Exercise:
    """Which of these tokens carries the most loss? Settings: tokens (roles, of three tokens at least)."""
    roles = {s.place(role): role for role in settings["tokens"].split()}
    if len(roles) < 3:
        raise Unmet("too few tokens to choose from")
    roles = dict(sorted(roles.items()))
    values = [evaluate(f"share at={role}", s) for role in roles.values()]
    options = [read_inline(f"{{{{token at={role}}}}}") for role in roles.values()]
    answer = _extreme("largest", values)
    return {
        "form": "choice", "ask": _said(s, "ask.most-loss"), "options": options, "right": [answer],
        "reason": [*_said(s, "numbers.most-loss"), " ", *_all_values(options, values)],
        "reveal": {"pin": list(roles)[answer]},
    }  # fmt: skip


@a_kind("choose-number")
def choose_number(settings: Mapping[str, str], s: Scene) -> Exercise:
    """Which is larger (or smaller)? Settings: ask, rule, options: lines of ``words | field``."""
    options, values = [], []
    for line in settings["options"].splitlines():
        words, _, spec = line.rpartition("|")
        options.append(read_inline(words.strip()))
        values.append(evaluate(spec.strip(), s))
    _check_apart(options, s)
    answer = _extreme(settings.get("rule", "largest"), values)
    return {"form": "choice", "options": options, "right": [answer], "reason": _all_values(options, values)}


@a_kind("choose-value")
def choose_value(settings: Mapping[str, str], s: Scene) -> Exercise:
    """Which of these numbers is it? Settings: ask, answer (a field), others (fields, one a line)."""
    answer = evaluate(settings["answer"], s)
    others = [evaluate(spec, s) for spec in settings["others"].splitlines()]
    values = [answer, *others]
    if any(not apart(a, b) for i, a in enumerate(values) for b in values[:i]):
        raise Unmet("two of the numbers are written alike")
    values.sort(key=lambda value: value.number or 0.0)
    return {
        "form": "choice", "options": [[value.node] for value in values], "right": [values.index(answer)],
        "reason": [],
    }  # fmt: skip


@a_kind("choose-claim")
def choose_claim(settings: Mapping[str, str], s: Scene) -> Exercise:
    """Which of these is true? Settings: ask, options: lines of ``words | claim``, of which one holds."""
    options, true = [], []
    for i, line in enumerate(settings["options"].splitlines()):
        words, _, claim = line.rpartition("|")
        options.append(read_inline(words.strip()))
        if holds(claim.strip(), s):
            true.append(i)
    if len(true) != 1:
        raise Unmet(f"{len(true)} of the options are true")
    return {"form": "choice", "options": options, "right": true, "reason": []}


@a_kind("run-end")
def run_end(settings: Mapping[str, str], s: Scene) -> Exercise:
    """Which racer ends lower (or higher)? Settings: quantity, rule (smallest, largest), of (held_out, row, probe)."""
    quantity, of = settings["quantity"], settings.get("of", "held_out")
    values = [evaluate(f"run quantity={quantity} racer={i} of={of}", s) for i in range(len(s.race.racers))]
    options = [read_inline(f"{'AB'[i]}: {{{{racer i={i}}}}}") for i in range(len(values))]
    answer = _extreme(settings.get("rule", "smallest"), values)
    return {
        "form": "choice", "options": options, "right": [answer], "reason": _all_values(options, values),
        "reveal": {"step": s.race.steps},
    }  # fmt: skip


def _check_apart(options: list[list[Any]], s: Scene) -> None:
    """Raises Unmet where two options name one and the same token of the text."""
    named = [next((node["spec"] for node in walk(option) if _names_a_token(node)), None) for option in options]
    places = [evaluate(spec, s).node["place"] for spec in named if spec]
    if len(set(places)) < len(places):
        raise Unmet("two options are one token")


def _names_a_token(node: dict[str, Any]) -> bool:
    return node.get("tag") == "field" and str(node.get("spec", "")).startswith("token at=")


def told(exercise: Exercise) -> list[Any]:
    """What an exercise says is right, in words that stay when another text takes the place of this one."""
    if exercise["form"] == "order":
        return [exercise["items"][i] for i in exercise["answer"]]
    return [exercise["options"][i] for i in exercise["right"]]


def _extreme(rule: str, values: list[Value]) -> int:
    """The option that is largest (smallest), if clearly so."""
    if rule not in ("largest", "smallest"):
        raise ValueError(f"The rule {rule!r} is not known: choose largest or smallest.")
    order = sorted(range(len(values)), key=lambda i: values[i].number or 0.0, reverse=rule == "largest")
    if not apart(values[order[0]], values[order[1]]):
        raise Unmet("the two best options are written alike")
    return order[0]


def _all_values(options: list[list[Any]], values: list[Value]) -> list[Any]:
    reason: list[Any] = []
    for i, (option, value) in enumerate(zip(options, values, strict=True)):
        reason += ["; " if i else "", *option, ": ", value.node]
    return [*reason, "."]


def _reveal(settings: Mapping[str, str], s: Scene) -> dict[str, Any]:
    """What the picture turns to after the answer: ``reveal: gate=speck k=1 pin=role view=lanes+verdict step=last``."""
    reveal: dict[str, Any] = {}
    knobs: dict[str, Any] = {name: read_number(settings[name]) for name in KNOBS if name in settings}
    for part in settings.get("reveal", "").split():
        name, _, value = part.partition("=")
        if name == "pin":
            reveal["pin"] = s.place(value)
        elif name == "step":
            reveal["step"] = s.race.steps if value == "last" else int(value)
        elif name in LISTS:
            reveal[name] = value.split("+")
        elif name in ("controls", "figure", "rows"):
            reveal[name] = value
        elif name in KNOBS:
            knobs[name] = read_number(value)
        else:
            raise ValueError(f"A reveal has no {name!r}.")
    return {**reveal, "knobs": knobs} if knobs else reveal


# --- a list to sort -----------------------------------------------------------------------------------------------


@a_kind("order")
def order(settings: Mapping[str, str], s: Scene) -> Exercise:
    """Sort selectors by agreement with the gate, the highest first. Settings: selectors, by (jaccard or kept_share)."""
    names, by = settings["selectors"].split(), settings.get("by", "jaccard")
    values = [evaluate(f"{by} selector={name}", s) for name in names]
    answer = sorted(range(len(names)), key=lambda i: (-(values[i].number or 0.0), i))
    if any(not apart(values[a], values[b]) for a, b in itertools.pairwise(answer)):
        raise Unmet("two of the list are written alike")
    if answer == list(range(len(names))):  # the list must not begin in its right order
        names, values = names[1:] + names[:1], values[1:] + values[:1]
        answer = sorted(range(len(names)), key=lambda i: (-(values[i].number or 0.0), i))
    items = [[s.name(f"selector.{name}")] for name in names]
    reason = _all_values([items[i] for i in answer], [values[i] for i in answer])
    return {
        "form": "order", "items": items, "answer": answer, "values": [value.number for value in values],
        "reason": [*_said(s, "numbers.order"), " ", *reason],
    }  # fmt: skip
