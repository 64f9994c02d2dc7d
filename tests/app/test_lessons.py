"""The lessons: read, filled and checked. Every answer key is held against a plain loop over the raw JSON."""

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import speckd
from app import lessons
from app.lessons import exercises, fields, formula
from app.lessons.facts import ROLES, TraceFacts
from app.lessons.fields import Scene, evaluate
from app.lessons.text import plain, read_blocks, walk
from app.sessions import Shelf
from app.settings import settings_for
from app.tabs import learn
from tests.app import synthetic

ASSETS = Path(__file__).parents[2] / "assets"
ALL = [pytest.param(lesson, id=lesson.id) for lesson in lessons.lessons()]
SOURCES = ("arXiv", "SE-KD", "assets/NOTES.md", "our own measurement", "an independent run")


# --- the words --------------------------------------------------------------------------------------------------------


def test_every_lesson_is_there_in_its_order() -> None:
    found = lessons.lessons()
    assert tuple(lesson.id for lesson in found) == lessons.IDS
    assert [lesson.order for lesson in found] == list(range(1, len(found) + 1))
    assert 25 <= sum(lesson.minutes for lesson in found) <= 45, "about half an hour"


@pytest.mark.parametrize("lesson", ALL)
def test_lesson_is_short_and_asks(lesson: lessons.Lesson) -> None:
    words = sum(len(plain(step.title).split()) + len(plain(step.body).split()) for step in lesson.steps)
    for step in lesson.steps:
        for node in walk(step.body):
            if node.get("kind") == "exercise":
                texts = [node["settings"].get(key, "") for key in ("ask", "options", "after")]
                words += len(re.sub(r"\{\{.*?\}\}|\|.*", " ", "\n".join(texts)).split())
    assert words <= 900, f"{words} words"
    assert lesson.n_exercises >= 3
    assert len(lesson.steps) >= 3


def test_exercises_are_of_mixed_kinds() -> None:
    kinds = [node["settings"]["kind"] for lesson in lessons.lessons() for step in lesson.steps
             for node in walk(step.body) if node.get("kind") == "exercise"]  # fmt: skip
    assert set(kinds) == set(exercises.KINDS)
    assert len(kinds) >= 24


def typed(tree: Any) -> Iterator[str]:
    """The words that somebody typed: not fields, quoted figures, formulas or settings."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, list):
        for child in tree:
            yield from typed(child)
    elif tree.get("kind") == "exercise":
        settings = tree["settings"]
        for key in ("ask", "after"):
            yield from typed(read_blocks(settings.get(key, "")))
        for line in settings.get("options", "").splitlines():
            yield from typed(read_blocks(line.rpartition("|")[0].strip()))
    elif tree["tag"] not in ("field", "cite", "math", "formula", "quoted"):
        for key in ("children", "head", "rows"):
            yield from typed(tree.get(key, []))


@pytest.mark.parametrize("lesson", ALL)
def test_no_number_is_typed_by_hand(lesson: lessons.Lesson) -> None:
    for step in lesson.steps:
        for text in [*typed(step.title), *typed(step.body)]:
            found = re.search(r"\d.*", text.replace("Theorem 1", ""))  # which is a name
            # "Theorem 1" is a name; nothing else with a digit is typed
            assert not found or re.sub(r"Theorem 1\b", "", text) == re.sub(r"\d", "", text.replace("Theorem 1", "")), (
                text
            )


def test_the_spread_over_seeds_is_that_of_the_recorded_race() -> None:
    measured = json.loads((ASSETS / "runs" / "seed-spread.json").read_text())
    recorded = json.loads((ASSETS / "runs" / "default.json").read_text())["events"][0]
    assert recorded["steps"] == measured["settings"]["steps"]
    for name in ("batch_size", "learning_rate", "max_length", "temperature", "limit", "eval_limit"):
        assert recorded["settings"][name] == measured["settings"][name], name
    gaps = measured["differences"]["divergence"]
    assert fields.seeds(Scene()) == fields.nats((max(gaps) - min(gaps)) / 2)


def test_a_typed_number_would_be_found() -> None:
    for text in ("The TAR is 61%.", "**61**", "- a 5", "[a 7](lesson:gate)"):
        assert any(re.search(r"\d", one) for one in typed(read_blocks(text)))
    for text in ("{{tar k=5}}", "[[2.23x | somebody, arXiv 1]]", "$1 - p$"):
        assert not any(re.search(r"\d", one) for one in typed(read_blocks(text)))


def test_quoted_figures_name_their_source() -> None:
    quoted = [node for lesson in lessons.lessons() for step in lesson.steps for node in walk(step.body)
              if node.get("tag") in ("cite", "quoted")]  # fmt: skip
    assert len(quoted) >= 10
    for node in quoted:
        assert any(name in node["source"] for name in SOURCES), node


def test_links_and_terms_lead_somewhere() -> None:
    steps = {lesson.id: len(lesson.steps) for lesson in lessons.lessons()}
    terms = set()
    for lesson in lessons.lessons():
        for step in lesson.steps:
            for node in walk(step.body):
                if node.get("tag") == "link":
                    assert 1 <= node["step"] <= steps[node["lesson"]], node
                if node.get("tag") == "term":
                    terms.add(lessons.term_for(node["term"]))
                if node.get("tag") == "point":
                    assert node["point"] in lessons.POINTS
            assert not re.search(r"\]\(|\{\{|\[\[|\$", "".join(typed(step.body))), "Markdown that was not read"
    assert terms <= set(lessons.glossary())
    for term in lessons.glossary().values():
        assert 1 <= term.step <= steps[term.lesson], term.name
        assert 5 <= len(plain(term.says).split()) <= 45, term.name


def test_hard_cases_are_told() -> None:
    words = {lesson.id: " ".join("".join(typed(step.body)) for step in lesson.steps) for lesson in lessons.lessons()}
    assert "exclude that point" in words["curriculum"] and "never be accepted" in words["when-not"]
    assert "surely wrong" in words["speed"] and "random" in words["divergences"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no front matter", "front matter"),
        ("---\nid: a\n---\n## S\n\n```state\ntrace: healed\n```\n", "'title'"),
        ("---\nid: a\ntitle: b\norder: 1\nminutes: 1\n---\n## S\n\ntext\n", "state"),
        ("---\nid: a\ntitle: b\norder: 1\nminutes: 1\n---\n## S\n\n```state\ntrace: healed\nview: x\n```\n", "'x'"),
        ("---\nid: a\ntitle: b\norder: 1\nminutes: 1\n---\n## S\n\n```state\ntrace: h\nrun: r\n```\n", "one of them"),
        ("---\nid: a\ntitle: b\norder: 1\nminutes: 1\n---\n## S\n\n```state\ntrace: h\nevil: r\n```\n", "evil"),
        ("---\nid: a\ntitle: b\norder: 1\nminutes: 1\n---\n## S\n\n```state\ntrace: h\n```\n```py\n1\n```\n", "'py'"),
    ],
)  # fmt: skip
def test_a_broken_lesson_is_refused_by_name(source: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        lessons.read_lesson(source, "a")


def test_markup_stays_text() -> None:
    tree = read_blocks("A <b onclick='x'>bold</b> <script>1</script> [x](javascript:alert(1)) ![i](http://x.y/z.png)")
    assert {node["tag"] for node in walk(tree)} == {"p"}
    assert "<script>" in plain(tree)


@pytest.mark.parametrize("source", [r"\evil{x}", r"\frac{1}", "{x", "x}", "a & b", "x_", r"\text x", r"\name{x"])
def test_an_unknown_formula_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="formula"):
        formula.to_mathml(source)


def test_a_formula_is_the_tree_one_would_write() -> None:
    assert formula.to_mathml(r"1 - \frac{a_t}{b^2}") == [
        "math", {}, [["mrow", {}, [
            ["mn", {}, ["1"]], ["mo", {}, ["−"]],
            ["mfrac", {}, [
                ["mrow", {}, [["msub", {}, [["mi", {}, ["a"]], ["mi", {}, ["t"]]]]]],
                ["mrow", {}, [["msup", {}, [["mi", {}, ["b"]], ["mn", {}, ["2"]]]]]],
            ]],
        ]]],
    ]  # fmt: skip


def test_numbers_are_written_as_the_picture_writes_them() -> None:
    assert [fields.percent(x) for x in (0, 0.0004, 0.0123, 0.0994, 0.0995, 0.615, 0.9996, 1)] == [
        "0%", "<0.1%", "1.2%", "9.9%", "10%", "62%", ">99.9%", "100%",
    ]  # fmt: skip
    assert [fields.number(x) for x in (0, 0.00041, 0.0123, 2.345, 13.79, 999.4, 1234.5, math.inf)] == [
        "0", "4.1e−4", "0.0123", "2.35", "13.8", "999", "1,235", "∞",
    ]  # fmt: skip
    assert [fields.ordinal(n) for n in (1, 2, 3, 4, 11, 21, 112, 4310)] == [
        "1st", "2nd", "3rd", "4th", "11th", "21st", "112th", "4,310th",
    ]  # fmt: skip


# --- the numbers: everything again, by plain loops over the JSON files ------------------------------------------------


def inf(value: Any) -> float:
    return math.inf if value == "inf" else float(value)


class Raw:
    """A trace or run as the JSON file has it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    @property
    def n(self) -> int:
        return len(self.data["tokens"])

    def place(self, role: str) -> int:
        d = self.data
        rank, draw, tvd = d["topk_threshold"], d["speck_threshold"], d["divergence"]["tvd"]
        fkl, rkl = ([inf(v) for v in d["divergence"][name]] for name in ("forward_kl", "reverse_kl"))
        mean = sum(fkl) / self.n
        everything = range(self.n)

        def best(score: Callable[[int], float], allowed: Callable[[int], bool] = lambda t: True) -> int:
            places = [t for t in everything if allowed(t)] or list(everything)
            winner = places[0]
            for t in places:
                if score(t) > score(winner):
                    winner = t
            return winner

        if role == "surest_accepted_digit":
            digits = [t for t in everything if d["tokens"][t].strip().isdigit()]
            if not digits:
                return 0
            start = digits[-1]
            while start - 1 in digits:
                start -= 1
            return start
        rules: dict[str, tuple[Callable[[int], float], Callable[[int], bool]]] = {
            "first": (lambda t: -t, lambda t: True),
            "most_loss": (lambda t: fkl[t], lambda t: True),
            "least_loss": (lambda t: -fkl[t], lambda t: True),
            "middling_loss": (lambda t: -abs(fkl[t] - mean), lambda t: True),
            "unsure": (lambda t: d["teacher_entropy"][t], lambda t: True),
            "sure_together": (lambda t: -tvd[t], lambda t: True),
            "sure_miss": (lambda t: -d["teacher_entropy"][t], lambda t: rank[t] > 5),
            "second": (lambda t: d["proposal_student_prob"][t], lambda t: rank[t] == 2),
            "near_miss": (lambda t: -rank[t], lambda t: rank[t] > 5),
            "far_miss": (lambda t: rank[t], lambda t: True),
            "late_coin": (lambda t: -abs(tvd[t] - 0.75), lambda t: 3 <= draw[t] <= 5),
            "early_coin": (lambda t: tvd[t], lambda t: draw[t] == 1),
            "lucky": (lambda t: rank[t], lambda t: rank[t] > 5 and draw[t] <= 5),
            "unlucky": (lambda t: draw[t], lambda t: rank[t] <= 5 and draw[t] > 5),
            "half_open": (lambda t: -abs(tvd[t] - 0.5), lambda t: True),
            "torn": (lambda t: rkl[t] - fkl[t], lambda t: True),
            "hidden_lesson": (lambda t: -d["ranks"]["student_entropy"][t], lambda t: rank[t] > 5),
            "easy_keep": (lambda t: d["ranks"]["student_entropy"][t], lambda t: rank[t] <= 5),
        }
        return best(*rules[role])

    def accepted(self, gate: str, k: int) -> list[bool]:
        if gate == "none":
            return [True] * self.n
        return [threshold <= k for threshold in self.data[f"{gate}_threshold"]]

    def tar(self, gate: str, k: int) -> float:
        count = 0
        for ok in self.accepted(gate, k):
            count += ok
        return count / self.n

    def kept(self, selector: str, gate: str, k: int) -> list[bool]:
        if selector == "gate":
            return self.accepted(gate, k)
        budget = sum(self.accepted(gate, k))
        return [rank <= budget for rank in self.data["ranks"][selector]]

    def share_kept(self, selector: str, knobs: dict[str, Any]) -> float:
        values = [inf(v) for v in self.data["divergence"][knobs["divergence"]]]
        kept = self.kept(selector, knobs["gate"], knobs["k"])
        return sum(v for v, ok in zip(values, kept, strict=True) if ok) / sum(values)

    def jaccard(self, selector: str, knobs: dict[str, Any]) -> float:
        both = either = 0
        for a, b in zip(self.accepted(knobs["gate"], knobs["k"]), self.kept(selector, knobs["gate"], knobs["k"]),
                        strict=True):  # fmt: skip
            both += a and b
            either += a or b
        return both / either if either else 1.0

    # a run

    def series(self, quantity: str, racer: int, of: str, k: int = 5) -> list[tuple[int, float]]:
        points = []
        for event in self.data["events"]:
            if event["kind"] != of or event["racer"] != racer:
                continue
            if of == "row" and quantity in event["row"]:
                points.append((event["row"]["step"], event["row"][quantity]))
            if of == "held_out":
                points.append((event["step"], event["scores"][quantity]))
            if of == "probe":
                hits = [threshold <= k for threshold in event["topk_threshold"]]
                points.append((event["step"], sum(hits) / len(hits)))
        return sorted(points)


def raw_field(raw: Raw, spec: str, knobs: dict[str, Any], pin: str) -> float:
    """What a field is worth, from the JSON alone."""
    name, *rest = spec.split()
    args: dict[str, str] = dict(part.split("=") for part in rest)
    knobs = {**knobs, **{key: args.pop(key) for key in list(args) if key in knobs}}
    knobs["k"] = int(knobs["k"])
    d = raw.data
    other = json.loads((ASSETS / "traces" / f"{args['text']}.json").read_text()) if "text" in args else None
    if name in ("run", "gap", "change", "stretch", "room") and "recorded" in args:
        raw = Raw(json.loads((ASSETS / "runs" / f"{args['recorded']}.json").read_text()))
    t = raw.place(args.get("at", pin)) if "tokens" in d else -1
    if name == "entropy":
        return d[f"{args.get('of', 'teacher')}_entropy"][t]
    if name == "mean":
        column = d["divergence"][knobs["divergence"]] if args["of"] == "divergence" else d[args["of"]]
        wanted = args.get("which", "all")
        kept = raw.accepted(knobs["gate"], knobs["k"])
        chosen = [inf(v) for v, ok in zip(column, kept, strict=True) if wanted == "all" or ok == (wanted == "accepted")]
        return sum(chosen) / len(chosen) if chosen else math.nan
    if name == "tvd":
        return d["divergence"]["tvd"][t]
    if name == "p" and args["of"] == "favourite":
        return max(d["teacher_top"]["prob"][t])
    if name == "outside":
        rest = 1.0
        for probability in d["teacher_top"]["prob"][t]:
            rest -= probability
        return rest
    if name == "divergence":
        return inf(d["divergence"][knobs["divergence"]][t])
    if name == "share":
        values = [inf(v) for v in d["divergence"][knobs["divergence"]]]
        return values[t] / sum(values)
    if name == "proposal_passes":
        return d["proposal_acceptance"][t]
    if name == "passes":
        return 1 - d["divergence"]["tvd"][t] ** int(args.get("draws", 1))
    if name == "tar":
        return raw.tar(knobs["gate"], knobs["k"])
    if name == "plain":
        values = [inf(v) for v in d["divergence"][knobs["divergence"]]]
        return sum(values) / len(values)
    if name == "kept_share":
        return raw.share_kept(args["selector"], knobs)

    def tokens_a_round(a: float, g: int) -> float:  # one for the teacher's token, and a^j for the j-th drafted one
        return sum(a**j for j in range(g + 1))

    def mean_chance() -> float:
        values = (other or d)["divergence"]["tvd"]
        return sum(1 - value for value in values) / len(values)

    if name == "block_gain":
        return tokens_a_round(float(args["until"]), 4) - tokens_a_round(float(args["since"]), 4)
    if name == "block":
        return tokens_a_round(mean_chance(), 4)
    if name == "speedup":
        g = int(args.get("draft", 4))
        return tokens_a_round(mean_chance(), g) / (0.25 * g + 1)
    racer = int(args.get("racer", 0))
    if name == "gap":
        ends = [raw.series(args["quantity"], i, "held_out")[-1][1] for i in (0, 1)]
        return abs(ends[0] - ends[1])
    if name == "stretch":
        rows = [value for _, value in raw.series(args["quantity"], racer, "row")]
        third = len(rows) // 3
        part = rows[:third] if args["part"] == "early" else rows[len(rows) - third :]
        return sum(part) / third
    points = dict(raw.series(args["quantity"], racer, args.get("of", "held_out")))
    named = {"first": min(points), "last": max(points)}

    def at(step: str) -> float:
        return points[named.get(step) if step in named else int(step)]  # type: ignore[index]

    if name == "room":
        return 1 - at(args["step"])
    if name == "change":
        return at(args["until"]) - at(args["since"])
    raise AssertionError(f"no separate computation of {name}")


def check_key(made: dict[str, Any], settings: dict[str, str], raw: Raw, state: dict[str, Any]) -> None:
    """One answer key against plain loops."""
    knobs = {name: state[name] for name in ("gate", "k", "beta", "divergence")}
    knobs |= {name: int(settings[name]) if name == "k" else settings[name] for name in knobs if name in settings}
    pin = state.get("pin", "first")
    kind = settings["kind"]
    if kind == "predict-accept":
        t = raw.place(settings["token"])
        assert made["answer"] == (0 if raw.data[f"{knobs['gate']}_threshold"][t] <= knobs["k"] else 1)
    elif kind == "most-loss":
        places = sorted({raw.place(role) for role in settings["tokens"].split()})
        values = [inf(raw.data["divergence"]["forward_kl"][t]) for t in places]
        assert values[made["answer"]] == max(values) and len(made["options"]) == len(places) >= 2
    elif kind == "choose-number":
        specs = [line.rpartition("|")[2].strip() for line in settings["options"].splitlines()]
        values = [raw_field(raw, spec, knobs, pin) for spec in specs]
        wanted = max(values) if settings.get("rule", "largest") == "largest" else min(values)
        assert values[made["answer"]] == pytest.approx(wanted, rel=1e-6)
        assert made["answer"] in made["right"]
        for other in made["right"]:
            assert values[other] == pytest.approx(wanted, rel=0.05, abs=0.01)
    elif kind == "threshold":
        reach = min(float(settings["reach"]), max(raw.tar(knobs["gate"], k) for k in range(1, 51)))
        k = made["answer"]
        assert raw.tar(knobs["gate"], k) >= reach and (k == 1 or raw.tar(knobs["gate"], k - 1) < reach)
        assert len(made["reasons"]) == 50
    elif kind == "order":
        measure = {"jaccard": raw.jaccard, "kept_share": raw.share_kept}[settings["by"]]
        labels = [item[0] for item in made["items"]]
        names = {fields.SELECTORS[name]: name for name in settings["selectors"].split()}
        values = [measure(names[label], knobs) for label in labels]
        assert [values[i] for i in made["answer"]] == sorted(values, reverse=True)
    elif kind == "run-lower":
        ends = [raw.series(settings["quantity"], i, "held_out")[-1][1] for i in (0, 1)]
        wanted = min(ends) if settings.get("rule", "smallest") == "smallest" else max(ends)
        assert ends[made["answer"]] == wanted
    elif kind == "run-cross":
        points = raw.series(settings["quantity"], int(settings["racer"]), settings["of"])
        crossed = next((step for step, value in points if value >= float(settings["value"])), None)
        label = made["options"][made["answer"]][0]
        assert label == ("not in this run" if crossed is None else f"step {crossed}")
    else:
        raise AssertionError(f"no separate computation for {kind}")


def exercises_of(lesson: lessons.Lesson) -> Iterator[tuple[lessons.Step, dict[str, str]]]:
    for step in lesson.steps:
        for node in step.body:
            if node.get("kind") == "exercise":
                yield step, node["settings"]


@pytest.mark.parametrize("lesson", ALL)
def test_each_answer_key_equals_a_separate_computation(lesson: lessons.Lesson) -> None:
    for step, settings in exercises_of(lesson):
        folder, name = ("traces", step.state["trace"]) if "trace" in step.state else ("runs", step.state["run"])
        raw = Raw(json.loads((ASSETS / folder / f"{name}.json").read_text()))
        check_key(exercises.make(settings, lessons.scene_of(step)), settings, raw, step.state)


@pytest.mark.parametrize(("n", "seed"), [(1, 0), (2, 1), (9, 2), (48, 3), (120, 4)])
def test_exercises_recompute_for_any_sentence(n: int, seed: int) -> None:
    data = synthetic.trace(n, seed=seed)
    own = TraceFacts(speckd.Trace.from_dict(data))
    raw = Raw(json.loads(json.dumps(own.columns)))
    checked = left_out = 0
    for lesson in lessons.lessons():
        for step, settings in exercises_of(lesson):
            if step.state.get("trace") != lessons.MAIN_TRACE:
                continue
            try:
                made = exercises.make(settings, lessons.scene_of(step, own))
            except exercises.Unfit:
                left_out += 1
                continue
            checked += 1
            check_key(made, settings, raw, step.state)
    assert checked >= 5
    if n >= 40:
        assert left_out <= 2, "a proper sentence has something to ask about"


def test_roles_all_have_a_separate_computation() -> None:
    for name in ("healed", "young", "surely-wrong"):
        raw = Raw(json.loads((ASSETS / "traces" / f"{name}.json").read_text()))
        for role in ROLES:
            assert lessons.trace_facts(name).place(role) == raw.place(role), role


@pytest.mark.parametrize("lesson", ALL)
def test_a_filled_lesson_is_plain_data_without_a_gap(lesson: lessons.Lesson) -> None:
    page = json.loads(lessons.to_json(lessons.fill(lesson)))
    ids = [node["id"] for node in walk(page) if node.get("tag") == "exercise"]
    assert len(ids) == len(set(ids)) == lesson.n_exercises, "no step may be left out for want of its run"
    for node in walk(page):
        assert "spec" not in node and node.get("tag") != "fence"
        if node.get("tag") == "field":
            assert node["text"] and "nan" not in node["text"] and node["text"] != "–", node
        if node.get("tag") == "exercise" and node["form"] == "choice":
            assert 2 <= len(node["options"]) <= 7 and 0 <= node["answer"] < len(node["options"])
            assert len(node["right"]) < len(node["options"]), "an exercise has a wrong answer, too"
    for step in page["steps"]:
        assert step["state"]["view"] and ("trace" in step["state"] or "run" in step["state"])


@pytest.mark.parametrize("tokens", [None, synthetic.HOSTILE])
@pytest.mark.parametrize("n", [1, 3, 40])
def test_lessons_fill_for_any_sentence(tokens: list[str] | None, n: int) -> None:
    own = TraceFacts(speckd.Trace.from_dict(synthetic.trace(n, seed=n, tokens=tokens)))
    for lesson in lessons.lessons():
        page = json.loads(lessons.to_json(lessons.fill(lesson, own)))
        assert len(page["steps"]) == len(lesson.steps)


def test_own_sentence_changes_numbers_and_only_where_the_main_trace_is_shown() -> None:
    own = TraceFacts(speckd.Trace.from_dict(synthetic.trace(30, seed=8)))
    for lesson in lessons.lessons():
        recorded, mine = lessons.fill(lesson), lessons.fill(lesson, own)
        for step, one, other in zip(lesson.steps, recorded["steps"], mine["steps"], strict=True):
            if step.state.get("trace") != lessons.MAIN_TRACE:
                assert one == other
        assert (recorded != mine) == any(s.state.get("trace") == lessons.MAIN_TRACE for s in lesson.steps)


@pytest.mark.parametrize("spec", ["nothing", "tar k", "p at=nobody", "run quantity=tar", "divergence_share"])
def test_a_field_that_does_not_fit_is_refused(spec: str) -> None:
    scene = Scene(trace=lessons.trace_facts("healed"), settings=dict(lessons.DEFAULT_KNOBS))
    with pytest.raises(ValueError):
        evaluate(spec, scene)


def test_predictions_do_not_always_have_the_same_place() -> None:
    answers = [node["answer"] for lesson in lessons.lessons() for node in walk(lessons.fill(lesson))
               if node.get("tag") == "exercise" and node["form"] == "choice"]  # fmt: skip
    assert 0.2 < sum(answer == 0 for answer in answers) / len(answers) < 0.7


# --- the tab ----------------------------------------------------------------------------------------------------------


def test_library_gives_what_lessons_show_and_nothing_else() -> None:
    library = learn.Library(Shelf(4))
    for lesson in lessons.lessons():
        assert json.loads(library.lesson({"id": lesson.id, "own": None})["lesson"])["id"] == lesson.id
        for step in lesson.steps:
            wanted = {key: step.state[key] for key in ("trace", "run") if key in step.state}
            assert "error" not in library.material(wanted)
    for asked in (None, 7, {}, {"id": "../secrets"}, {"id": ["a"]}, {"trace": "../../README"}, {"run": "/etc/passwd"}):
        assert library.lesson(asked).get("error") and library.material(asked).get("error")
    assert "no longer keeps" in library.lesson({"id": "gate", "own": "unknown"})["error"]


def test_own_lesson_is_filled_from_the_shelf() -> None:
    shelf: Shelf[speckd.Trace] = Shelf(4)
    key = shelf.put(speckd.Trace.from_dict(synthetic.trace(17, seed=5)))
    told = json.loads(learn.Library(shelf).lesson({"id": "two-minds", "own": key})["lesson"])
    numbers = [node["text"] for node in walk(told["steps"][0]["body"]) if node.get("tag") == "field"]
    assert "17" in numbers


def test_own_question_is_asked_as_the_main_trace_was() -> None:
    question = learn.own_question("What do bees eat?", settings_for({}))
    config = lessons.trace_facts("healed").trace.config
    for name in ("teacher", "student", "source", "do_sample", "max_new_tokens", "temperature", "seed"):
        assert getattr(question, name) == config[name]
    assert learn.own_question("Why?", settings_for({"SPACE_ID": "x", "SPECKD_MAX_NEW_TOKENS": "9"})).max_new_tokens == 9
    with pytest.raises(ValueError, match="empty"):
        learn.own_question("  ", settings_for({}))
