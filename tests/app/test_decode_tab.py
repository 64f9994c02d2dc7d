"""What the Decode tab asks, keeps and refuses; models are stand-ins, recorded decodings the shipped ones."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import speckd
from app.decoding import DecodeRequest
from app.engine import Engine
from app.grids import arm_of, drafts_of
from app.lessons.languages import read_language
from app.recorded import DECODED, RecordedArms, recorded_decodings
from app.settings import ON_A_SPACE, Settings
from app.tabs import decode
from speckd import words
from speckd.decoding.facts import facts
from speckd.decoding.request import check_decode
from tests.app import stand_in

OPEN = Settings()
SHIPPED = {one.name: one.record for one in recorded_decodings()}


def read(settings: Settings = OPEN, **data: Any) -> DecodeRequest:
    return DecodeRequest.read({"prompt": "Why?", **data}, settings)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"prompt": " "}, "question is empty"), ({"draft": "nope"}, "not a draft here"), ({"draft": 7}, "not text"),
        ({"draft": "eagle", "policy": "often"}, "not a policy"), ({"policy": "cost"}, "draft beside it"),
        ({"draft": "student", "policy": "fixed:h=2"}, "no 'h'"), ({"draft": "exit:layer=0"}, "layer is 0"),
        ({"draft": "student", "policy": "fixed:g=99"}, "from 1 to 16"), ({"temperature": 0}, "temperature"),
        ({"draft": "student", "policy": "tree:nodes=999"}, "from 1 to 64"), ({"lenience": 1.5}, "lenience"),
        ({"draft": "lookup", "policy": "tree"}, "proposes chains"), ({"draft": "x" * 300}, "200 characters"),
        ({"draft": "hispec", "do_sample": True}, "argmaxes"), ({"seed": -1}, "seed"), ({"max_new_tokens": 0}, "length"),
    ],
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_one_sentence(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="(?i)" + words) as error:
        read(**data)
    assert len(str(error.value)) < 250 and "\n" not in str(error.value)


def test_a_space_opens_no_draft_file_and_a_laptop_may() -> None:
    for written in ("eagle:file=/etc/passwd", "eagle: file = ../x"):
        with pytest.raises(ValueError, match="leave file= out"):
            read(ON_A_SPACE, draft=written)
    assert read(draft="eagle:file=runs/draft").draft == "eagle:file=runs/draft"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(speckd, "load_pair", stand_in.load_pair)
    monkeypatch.setattr(speckd, "decode", lambda *given, **asked: stand_in.decode(*given, seconds=3, **asked))
    return Engine(OPEN)


def test_stop_in_mid_round_keeps_the_rounds_that_were_over(engine: Engine) -> None:
    stop = threading.Event()
    steps = []
    for step in engine.run(read(draft="eagle"), stop):
        steps.append(step)
        if len(step.rounds) >= 3:
            stop.set()
    last = steps[-1]
    assert last.state == "stopped" and "kept" in last.text and last.record is not None
    assert len(last.record.rounds) >= 3 and last.record.n_tokens < SHIPPED["eagle"].n_tokens
    assert speckd.DecodeRecord.from_json(last.record.to_json()) == last.record
    assert last.rounds[0]["strings"], "a live round brings the words of its tokens"


def test_a_decoding_that_takes_too_long_says_so_and_keeps_its_rounds(engine: Engine) -> None:
    engine.settings = replace(OPEN, max_question_seconds=1)
    *_, last = engine.run(read(draft="eagle"), threading.Event())
    assert last.state == "failed" and "longer than 1 seconds" in last.text and last.record is not None


def test_a_record_that_was_cut_off_altered_or_too_large_is_one_sentence() -> None:
    good = SHIPPED["eagle"].to_json()
    altered = json.loads(good)
    altered["rounds"][0]["verdicts"] = ["accepted"] * 40
    no_config = json.loads(good)
    del no_config["config"]["seed"]
    bad = [good[:900], "[1]", "", 7, "{}", json.dumps(altered), json.dumps(no_config), "{" * 10_000]
    for text in bad:
        with pytest.raises(ValueError) as error:
            decode.read_record(text, 1_000_000)
        assert "\n" not in str(error.value) and len(str(error.value)) < 250
    with pytest.raises(ValueError, match="at most"):
        decode.read_record(good, 1_000)
    assert decode.read_record(good, 1_000_000) == SHIPPED["eagle"]


def test_a_record_leaves_as_json_whole_and_as_a_page_that_needs_no_host() -> None:
    record = SHIPPED["eagle"]
    assert speckd.DecodeRecord.from_json(decode.export(record, "json")) == record
    hostile = replace(record, config={**record.config, "prompt": "</script><script>alert(1)</script>"})
    page = decode.export(hostile, "html")
    assert "default-src 'none'" in page and "<script>alert" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    with pytest.raises(ValueError, match="json or html"):
        decode.export(record, "csv")


def test_the_recorded_decodings_are_lossless_and_each_shows_what_it_is_for() -> None:
    assert set(DECODED) >= set(SHIPPED) >= {"eagle", "tree", "ddd", "student", "sampled", "lookup"}
    for record in SHIPPED.values():
        assert record.lossless and record.identical in (True, None)
    assert any(step.kind == "resampled" and step.leftover for step in SHIPPED["sampled"].rounds)
    assert any(step.kind == "bonus" for step in SHIPPED["sampled"].rounds)
    assert any(step.checks for step in SHIPPED["ddd"].rounds)
    chain = [list(range(-1, len(step.parents) - 1)) for step in SHIPPED["tree"].rounds]
    assert any(step.parents != parents for step, parents in zip(SHIPPED["tree"].rounds, chain, strict=True))


def test_every_draft_and_policy_of_the_lists_can_be_asked_for() -> None:
    for draft in filter(None, words.DRAFTS):
        check_decode("Why?", draft, None, 8, False, 1.0, 0)
    for policy in filter(None, words.POLICIES):
        check_decode("Why?", "eagle", policy, 8, False, 1.0, 0)


def test_names_of_drafts_policies_and_recordings_are_told_in_spanish_too() -> None:
    named = [*words.DRAFTS.values(), *words.POLICIES.values(), *DECODED.values()]
    named += [one["label"] for one in (*words.VERDICTS.values(), *words.LASTS.values())]
    assert set(named) <= set(read_language("es").page)


def test_tables_of_the_papers_are_drawn_where_they_are_and_left_out_where_not(tmp_path: Path) -> None:
    assert decode.tables(tmp_path) == {}
    rows = ["trained_at,decoded_at,acceptance,acceptance_low,acceptance_high,gained,command"]
    rows += [f"1,{tau},0.1{tau},0.1,0.9,,made" for tau in (0, 1, 2)]
    rows += [f"2,{tau},0.2{tau},0.1,0.9,0.5,made" for tau in (0, 1, 2)]
    (tmp_path / "temperature.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "policies.csv").write_text("draft,policy,speedup,thrown_away,command\neagle,oracle,,0,made\n")
    (tmp_path / "hispec.csv").write_text("nonsense\n1\n")
    told = {name: json.loads(text) for name, text in decode.tables(tmp_path).items()}
    assert set(told) == {"temperature", "policies"}
    grid = told["temperature"]["grids"]["acceptance"]
    assert json.loads(grid["figure"])["data"][0]["z"] == [[0.10, 0.11, 0.12], [0.20, 0.21, 0.22]]
    assert grid["cells"][1][2] == {"value": 0.22, "low": 0.1, "high": 0.9, "record": None}
    gained = told["temperature"]["grids"]["acceptance gained over the start"]
    values = [[cell["value"] for cell in row] for row in gained["cells"]]
    assert values == [[None] * 3, [0.5] * 3], "what a table leaves empty is no cell"
    assert told["policies"]["rows"] == [["eagle", "oracle", None, 0.0]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["distillspec", "temperature"])
def test_a_cell_opens_the_decoding_of_its_own_draft_or_says_that_there_is_none(name: str) -> None:
    arms = RecordedArms()
    told = json.loads(decode.tables(recorded=frozenset(arms))[name])
    for label, grid in told["grids"].items():
        for cell in (cell for row in grid["cells"] for cell in row):
            if cell["value"] is None or cell["record"] is None:
                continue
            record, arm = arms[cell["record"]], arm_of(cell["record"])
            file = record.config["draft"].removeprefix("eagle:file=")
            if arm["objective"] != "before":  # the folder of a trained draft is named by what it was trained with
                assert "-".join(arm[part] for part in ("objective", "text", "gate", "temperature")) in file
                assert drafts_of(told["command"]).rpartition("-")[0] in file, "of the run that the table was made by"
            assert record.lossless and record.identical in (True, None)
            tau = record.config["temperature"] if record.config["do_sample"] else 0
            assert cell["record"].endswith(f"-{tau:g}"), label


def test_facts_follow_from_the_rounds() -> None:
    record = SHIPPED["eagle"]
    told = facts(record)
    assert told["n_rounds"] == len(record.rounds) and told["n_tokens"] == record.n_tokens
    seen = [v for step in record.rounds for v in step.verdicts if v != "unseen"]
    assert sum(n for _, _, n in told["calibration"]) == len(seen)
    passed = sum(share * n for _, share, n in told["calibration"])
    assert round(passed) == seen.count("accepted")
    assert told["replayed"][-1][0] == "oracle"
    assert told["replayed"][-1][1] >= max(speed for _, speed, *_ in told["replayed"][:-1]), "nothing beats hindsight"
    replayed = {policy: speed for policy, speed, *_ in told["replayed"]}
    lengths = dict(map(tuple, told["costs"]["lengths"]))
    assert all(lengths[g] == replayed[f"fixed:g={g}"] for g in (1, 2, 4, 6)), "all lengths are this text's own"
    assert told["costs"]["best_speedup"] == max(1.0, *lengths.values())
    unsure = facts(replace(record, continuations=None))["costs"]
    assert unsure["best_length"] is None, "a policy that drafts on where the draft is sure tells nothing of lengths"
    sampled = SHIPPED["sampled"]
    assert [g for g, _ in facts(sampled)["costs"]["lengths"]] == list(range(1, len(sampled.acceptance_by_position) + 1))
    assert facts(SHIPPED["tree"])["by_position"] == [] and facts(SHIPPED["ddd"])["threshold"] == -0.9
