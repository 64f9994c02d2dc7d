"""The lessons: read, filled and checked. Every answer key is held against a plain loop over the raw JSON."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import speckd
from app import lessons
from app.lessons import exercises, formula, run_fields
from app.lessons.facts import TraceFacts
from app.lessons.languages import ENGLISH
from app.lessons.roles import ROLES, readable
from app.lessons.scene import Scene, evaluate
from app.lessons.text import plain, read_blocks, walk
from app.lessons.values import KINDS, Unmet
from app.sessions import Shelf
from app.settings import settings_for
from app.tabs import learn
from speckd.files import as_json
from tests.app import raw, synthetic

ASSETS = Path(__file__).parents[2] / "assets"
ALL = [pytest.param(lesson, id=lesson.id) for lesson in lessons.lessons()]
SOURCES = ("arXiv", "SE-KD", "assets/NOTES.md", "our own measurement", "an independent run")


# --- the words --------------------------------------------------------------------------------------------------------


def test_every_lesson_is_there_in_its_order() -> None:
    found = lessons.lessons()
    assert tuple(lesson.id for lesson in found) == lessons.IDS
    assert [lesson.order for lesson in found] == list(range(1, len(found) + 1))
    assert 25 <= sum(lesson.minutes for lesson in found) <= 60, "an hour at most"


@pytest.mark.parametrize("lesson", ALL)
def test_lesson_is_short_and_asks(lesson: lessons.Lesson) -> None:
    words = sum(len(plain(step.title).split()) + len(plain(step.body).split()) for step in lesson.steps)
    for step in lesson.steps:
        for node in walk(step.body):
            if node.get("kind") == "exercise":
                texts = [node["settings"].get(key, "") for key in ("ask", "options", "why")]
                words += len(re.sub(r"\{\{.*?\}\}|\|.*", " ", "\n".join(texts)).split())
    assert words <= 1100, f"{words} words"
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
        for key in ("ask", "why"):
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
    assert run_fields.seeds(Scene()).number == (max(gaps) - min(gaps)) / 2


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
                if node.get("tag") == "link" and node["lesson"] == "final":
                    assert node["step"] == 1  # the final test is one page
                elif node.get("tag") == "link":
                    assert 1 <= node["step"] <= steps[node["lesson"]], node
                if node.get("tag") == "term":
                    terms.add(lessons.term_for(node["term"]))
                if node.get("tag") == "point":
                    assert node["point"] in lessons.POINTS
            assert not re.search(r"\]\(|\{\{|\[\[|\$", "".join(typed(step.body))), "Markdown that was not read"
    assert terms <= {term.name for term in lessons.glossary().values()}
    for term in lessons.glossary().values():
        assert 1 <= term.step <= steps[term.lesson], term.name
        assert 5 <= len(plain(term.says).split()) <= 45, term.name


def test_hard_cases_are_told() -> None:
    words = {lesson.id: " ".join("".join(typed(step.body)) for step in lesson.steps) for lesson in lessons.lessons()}
    assert "exclude that point" in words["curriculum"] and "never be accepted" in words["when-not"]
    assert "surely wrong" in words["speed"] and "turns it down" in words["speed"] and "random" in words["divergences"]


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


# --- the numbers: everything again, by plain loops over the JSON files (tests/app/raw.py) -----------------------------


def check_key(made: dict[str, Any], settings: dict[str, str], text: raw.Raw, state: dict[str, Any]) -> None:
    """One answer key against plain loops."""
    knobs = {name: state[name] for name in ("gate", "k", "beta", "divergence")}
    knobs |= {name: int(settings[name]) if name == "k" else settings[name] for name in knobs if name in settings}
    pin = state.get("pin", "first")
    kind = settings["kind"]

    def worth(spec: str) -> float:
        value = raw.field(text, spec.strip(), knobs, pin)
        assert value is not None
        return value

    if kind == "predict-accept":
        t = text.place(settings["token"])
        assert t is not None
        assert made["right"] == [0 if text.data["topk_threshold"][t] <= knobs["k"] else 1]
    elif kind == "most-loss":
        places = sorted({text.place(role) for role in settings["tokens"].split()})
        values = [text.column("forward_kl")[t] for t in places if t is not None]
        assert values[made["right"][0]] == max(values) and len(made["options"]) == len(places) >= 3
    elif kind == "choose-number":
        values = [worth(line.rpartition("|")[2]) for line in settings["options"].splitlines()]
        wanted = max(values) if settings.get("rule", "largest") == "largest" else min(values)
        assert values[made["right"][0]] == pytest.approx(wanted, rel=1e-6)
        others = [value for i, value in enumerate(values) if i != made["right"][0]]
        assert min(abs(value - wanted) for value in others) > 0.005 * abs(wanted), "two options are written alike"
    elif kind == "choose-value":
        node = made["options"][made["right"][0]][0]
        assert node["number"] == pytest.approx(worth(settings["answer"]), rel=1e-5)
        assert len({option[0]["number"] for option in made["options"]}) == len(made["options"])
    elif kind == "choose-claim":
        claims = [line.rpartition("|")[2].strip() for line in settings["options"].splitlines()]
        assert made["right"] == [i for i, claim in enumerate(claims) if raw.holds(text, claim, knobs, pin)]
    elif kind == "order":
        measure = {"jaccard": text.jaccard, "kept_share": text.share_kept}[settings["by"]]
        words = {ENGLISH.word(f"selector.{name}"): name for name in settings["selectors"].split()}
        values = [measure(words[item[0]], knobs) for item in made["items"]]
        assert [values[i] for i in made["answer"]] == sorted(values, reverse=True)
    elif kind == "run-end":
        ends = [text.series(settings["quantity"], i, "held_out")[-1][1] for i in (0, 1)]
        wanted = min(ends) if settings.get("rule", "smallest") == "smallest" else max(ends)
        assert ends[made["right"][0]] == wanted
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
        check_key(exercises.make(settings, lessons.scene_of(step)), settings, raw.material(step.state), step.state)


@pytest.mark.parametrize(("n", "seed"), [(1, 0), (2, 1), (9, 2), (48, 3), (120, 4)])
def test_exercises_recompute_for_any_sentence(n: int, seed: int) -> None:
    own = TraceFacts(speckd.Trace.from_dict(synthetic.trace(n, seed=seed)))
    text = raw.Raw(json.loads(json.dumps(own.columns)))
    checked = 0
    for lesson in lessons.lessons():
        for step, settings in exercises_of(lesson):
            if step.state.get("trace") != lessons.MAIN_TRACE:
                continue
            try:
                made = exercises.make(settings, lessons.scene_of(step, own))
            except Unmet:
                continue
            checked += 1
            check_key(made, settings, text, step.state)
    assert checked >= {1: 0, 2: 0, 9: 3}.get(n, 10), "a proper sentence has something to ask about"


@pytest.mark.parametrize("name", raw.SHIPPED)
def test_roles_all_have_a_separate_computation(name: str) -> None:
    text = raw.file("traces", name)
    for role in ROLES:
        try:
            assert lessons.trace_facts(name).place(role) == text.place(role), role
        except Unmet:
            assert text.place(role) is None, role


@pytest.mark.parametrize("lesson", ALL)
def test_each_question_says_why_and_shows_it(lesson: lessons.Lesson) -> None:
    for node in walk(lessons.fill(lesson)):
        if node.get("tag") == "exercise":
            assert len(plain(node["why"]).split()) >= 8, node["id"]
            assert node["reveal"], node["id"]
            assert "tokens" not in node or node["form"] == "choice"


def test_no_answer_is_on_screen_before_it_is_given() -> None:
    """What a question asks for is in no part of the picture that its step shows already."""
    shown_by = {  # a field -> where the picture writes it
        "entropy": {"facts", "teacher_entropy", "student_entropy"}, "outside": set(), "tar": {"controls"},
        "tar_gain": {"controls"}, "divergence": {"sum", "divergence"}, "share": {"sum", "divergence"},
        "tvd": {"facts"}, "passes": {"chances", "acceptance"}, "proposal_passes": {"chances", "reason"},
        "proposal_fails": {"chances", "reason"}, "fails": {"chances"}, "jaccard": {"compare"}, "plain": {"all"},
        "kept_share": {"compare"}, "mean": {"all", "divergence", "student_entropy"}, "loss": {"all"}, "blend": {"all"},
        "speedup": set(), "block": set(), "block_gain": set(), "greedy": {"controls"}, "p": set(),
    }  # fmt: skip
    for lesson in lessons.lessons():
        for step, settings in exercises_of(lesson):
            if "study" in step.state:  # the map shows a figure, and the question asks for another
                assert f"figure={step.state['figure']}" not in settings["options"], (lesson.id, plain(step.title))
                continue
            if "decoding" in step.state:
                assert not {"figures", "token"} & set(step.state["view"]), "figures and card wait for the answer"
                continue
            if "trace" not in step.state:
                assert step.state.get("step") == "first" or lesson.id == "when-not", "a run's end waits"
                continue
            lists = set(step.state["parts"]) & {"facts", "sum", "chances", "reason"}
            lists = lists if "verdict" in step.state["view"] else set()
            lanes = set(step.state["lanes"] or lessons.LANES) if "lanes" in step.state["view"] else set()
            controls = {"all": {"controls", "all"}, "primary": {"controls"}, "none": set()}[step.state["controls"]]
            compare = {"compare"} & set(step.state["view"])
            specs = [line.rpartition("|")[2] for line in settings.get("options", "").splitlines()]
            for name in {spec.split()[0] for spec in specs} | ({settings["by"]} if "by" in settings else set()):
                # a lane of another token's value, or of many, is no number that answers
                there = shown_by[name] & (lists | controls | compare)
                assert not there, (lesson.id, plain(step.title), name, there)
                assert not shown_by[name] & lanes or name in ("speedup", "block"), (lesson.id, name, lanes)


def test_a_token_of_the_text_is_named_with_its_number() -> None:
    facts = lessons.trace_facts("healed")
    for lesson in lessons.lessons():
        for step in lessons.fill(lesson)["steps"]:
            for node in walk(step["body"]):
                if node.get("tag") == "token" and "place" in node and step["state"].get("trace") == "healed":
                    assert facts.trace.tokens[node["place"] - 1] == node["text"]
    assert evaluate("token at=sure_miss", Scene(trace=facts, settings=dict(lessons.DEFAULT_KNOBS))).node["place"]


@pytest.mark.parametrize("lesson", ALL)
def test_a_filled_lesson_is_plain_data_without_a_gap(lesson: lessons.Lesson) -> None:
    page = json.loads(as_json(lessons.fill(lesson)))
    ids = [node["id"] for node in walk(page) if node.get("tag") == "exercise"]
    assert len(ids) == len(set(ids)) == lesson.n_exercises, "no step may be left out for want of its run"
    for node in walk(page):
        assert "spec" not in node and node.get("tag") != "fence"
        if node.get("tag") == "number":
            assert node["kind"] in KINDS and isinstance(node["number"], int | float), node
        if node.get("tag") == "field":
            assert node["text"] and not re.search(r"\d{2}|nan|%", node["text"].replace("0.01", "").replace("0.55", ""))
        if node.get("tag") == "exercise" and node["form"] == "choice":
            assert 2 <= len(node["options"]) <= 7 and len(node["right"]) == 1
            assert 0 <= node["right"][0] < len(node["options"]), "an exercise has a wrong answer, too"
    for step in page["steps"]:
        assert not step.get("left_out")
        assert step["state"]["view"] and {"trace", "run", "study", "decoding"} & set(step["state"])


@pytest.mark.parametrize("tokens", [None, synthetic.HOSTILE])
@pytest.mark.parametrize("n", [1, 3, 40])
def test_lessons_fill_for_any_sentence(tokens: list[str] | None, n: int) -> None:
    own = TraceFacts(speckd.Trace.from_dict(synthetic.trace(n, seed=n, tokens=tokens)))
    for lesson in lessons.lessons():
        page = json.loads(as_json(lessons.fill(lesson, own)))
        assert len(page["steps"]) == len(lesson.steps)


@pytest.mark.parametrize("name", ["young", "written-by-the-student", "cool", "hot"])
def test_a_text_is_asked_only_what_the_written_reason_explains(name: str) -> None:
    for lesson in lessons.lessons():
        recorded, mine = (
            {node["id"]: node for node in walk(page["steps"]) if node.get("kind") in ("choose-number", "most-loss")}
            for page in (lessons.fill(lesson), lessons.fill(lesson, lessons.trace_facts(name)))
        )
        for task, node in mine.items():
            if node["kind"] == "choose-number":
                assert node["right"] == recorded[task]["right"], (task, "its reason is that of another answer")
            tokens = [[part for part in walk(one) if part.get("place")][:1] for one in node["options"]]
            named = [str(one) for one in tokens if one]
            assert len(set(named)) == len(named), (task, "two options are one token")


def test_a_part_of_a_character_is_not_quoted() -> None:
    assert readable(" scatter") and readable("<b>")
    assert not any(map(readable, ("<9F>", "<F0 9F>", "\ufffd", "  ", "<|im_end|>")))


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
    answers = [node["right"][0] for lesson in lessons.lessons() for node in walk(lessons.fill(lesson))
               if node.get("tag") == "exercise" and node["form"] == "choice"]  # fmt: skip
    assert 0.2 < sum(answer == 0 for answer in answers) / len(answers) < 0.7


# --- the tab ----------------------------------------------------------------------------------------------------------


def test_library_gives_what_lessons_show_and_nothing_else() -> None:
    library = learn.Library(Shelf(4))
    for lesson in lessons.lessons():
        assert json.loads(library.lesson({"id": lesson.id, "own": None})["lesson"])["id"] == lesson.id
        for step in lesson.steps:
            wanted = {key: step.state[key] for key in ("trace", "run", "decoding") if key in step.state}
            wanted = {"study": step.state["control"]} if "study" in step.state else wanted
            assert "error" not in library.material(wanted)
    for asked in (None, 7, {}, {"id": "../secrets"}, {"id": ["a"]}, {"trace": "../../README"}, {"run": "/etc/passwd"}):
        assert library.lesson(asked).get("error") and library.material(asked).get("error")
    assert "no longer keeps" in library.lesson({"id": "gate", "own": "unknown"})["error"]


def test_own_lesson_is_filled_from_the_shelf() -> None:
    shelf: Shelf[speckd.Trace] = Shelf(4)
    key = shelf.put(speckd.Trace.from_dict(synthetic.trace(17, seed=5)))
    told = json.loads(learn.Library(shelf).lesson({"id": "two-minds", "own": key})["lesson"])
    numbers = [node["number"] for node in walk(told["steps"]) if node.get("tag") == "number"]
    assert 17 in numbers


def test_own_question_is_asked_as_the_main_trace_was() -> None:
    question = learn.own_question("What do bees eat?", settings_for({}))
    config = lessons.trace_facts("healed").trace.config
    for name in ("teacher", "student", "source", "do_sample", "max_new_tokens", "temperature", "seed"):
        assert getattr(question, name) == config[name]
    assert learn.own_question("Why?", settings_for({"SPACE_ID": "x", "SPECKD_MAX_NEW_TOKENS": "9"})).max_new_tokens == 9
    with pytest.raises(ValueError, match="empty"):
        learn.own_question("  ", settings_for({}))
