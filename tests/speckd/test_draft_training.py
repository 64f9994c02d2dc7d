"""A draft learns from the teacher's features what the teacher says next, can be stopped, and says how good it is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from speckd.cli.main import main
from speckd.data import Example, read_examples
from speckd.decoding.eagle import read_draft
from speckd.jobs import Progress, Stopped
from speckd.pairs import load_pair
from speckd.training import defaults
from speckd.training.draft import distill_draft
from speckd.training.draft_data import most_frequent, read_draft_data
from speckd.training.draft_loss import acceptance_loss
from speckd.training.draft_settings import DraftSettings, parse_draft
from speckd.training.draft_text import draft_texts
from tests.tiny import save_model

WORDS = ["red", "blue", "green", "brown", "a", "few"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny teacher, texts to train on, and others."""
    folder = tmp_path_factory.mktemp("draft")
    save_model(folder / "teacher")
    for name, first in (("train", 0), ("held", 3)):
        rows = [
            {
                "prompt": f"{WORDS[(index + first) % 6]} {index}?",
                "response": " ".join([WORDS[index % 6]] * (1 + index % 3)),
            }
            for index in range(13)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def settings(place: Path, tmp_path: Path) -> DraftSettings:
    return DraftSettings(
        data=str(place / "train.jsonl"),
        output=str(tmp_path / "run"),
        eval_data=str(place / "held.jsonl"),
        teacher=str(place / "teacher"),
        vocabulary=40,
        depth=3,
        batch_size=4,
        steps=12,
        device="cpu",
    )


def weights_of(settings: DraftSettings) -> dict[str, torch.Tensor]:
    sha256 = json.loads((Path(settings.output) / "draft" / "draft.json").read_text())["teacher_sha256"]
    layer, _, _ = read_draft(Path(settings.output) / "draft", sha256)
    return layer.state_dict()


def test_the_chance_of_acceptance_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.3, 0.1]]), torch.tensor([[0.2, 0.4, 0.4]])  # a tenth of p lies elsewhere
    expected = -torch.tensor(0.2 + 0.3 + 0.1).log()
    torch.testing.assert_close(acceptance_loss(p.log(), q.log()), expected[None])


def test_the_end_of_a_turn_is_always_in_the_vocabulary() -> None:
    examples = [Example([1], [5, 5, 5, 7, 7, 9, 8], 1)]
    assert most_frequent(examples, [2], 3).tolist() == [2, 5, 7]
    assert most_frequent(examples, [2], 99).tolist() == [2, 5, 7, 8, 9]


def test_features_are_the_teachers_and_targets_its_choices(place: Path) -> None:
    pair = load_pair(str(place / "teacher"), str(place / "teacher"), device="cpu")
    examples = read_examples(place / "train.jsonl", pair.tokenizer).examples
    texts = draft_texts(pair.teacher, examples, pair.teacher_sha256, batch_size=5)
    assert texts is not None
    batch = texts.batch([7, 2])
    for row, index in enumerate((7, 2)):
        example = examples[index]
        ids, first = example.prompt_ids + example.response_ids, len(example.prompt_ids) - 1
        n = len(example.response_ids)
        with torch.no_grad():
            out = pair.teacher(torch.tensor([ids]), output_hidden_states=True)
        assert batch.ids[row, : len(ids)].tolist() == ids
        torch.testing.assert_close(
            batch.features[row, : len(ids)], out.hidden_states[-1][0].half(), rtol=2e-3, atol=2e-3
        )
        assert batch.roots[row, :n].tolist() == list(range(first, first + n))
        logits = out.logits[0, first : first + n]
        assert batch.best[row, :n].tolist() == logits.argmax(-1).tolist()
        torch.testing.assert_close(batch.log_total[row, :n], logits.logsumexp(-1), rtol=1e-4, atol=1e-3)
    rows, targets = batch.rows_at(2)
    n_roots = batch.roots.shape[1]
    expected = [
        row * n_roots + at for row, index in enumerate((7, 2)) for at in range(len(examples[index].response_ids) - 2)
    ]
    assert rows.tolist() == expected and targets.tolist() == [row + 2 for row in expected]


@pytest.mark.slow
def test_training_raises_agreement_and_the_draft_says_so(settings: DraftSettings) -> None:
    rows: list[dict[str, Any]] = []
    facts, figures = distill_draft(
        replace(settings, eval_data=settings.data, steps=60, eval_every=10), on_row=rows.append
    )
    first, last = rows[0]["held_out"]["agreement"][0], rows[-1]["held_out"]["agreement"][0]
    assert figures is not None and figures.agreement[0] == last
    assert last > first + 0.2 and rows[-1]["loss"] < rows[0]["loss"]
    assert figures.kept[0] == figures.agreement[0] >= figures.kept[1] * 0.9
    assert figures.among == sorted(figures.among) and figures.among[0] == pytest.approx(figures.agreement[0])
    card = (Path(settings.output) / "draft" / "README.md").read_text()
    assert f"| 1 | {last:.3f} |" in card and facts["command"] in card


def test_a_stopped_run_goes_on_to_the_same_draft(settings: DraftSettings, tmp_path: Path) -> None:
    straight = replace(settings, output=str(tmp_path / "straight"))
    distill_draft(straight)
    stop = tmp_path / "stop"

    def ask_to_stop(event: Progress) -> None:
        if event.stage == "train":
            stop.touch()

    with pytest.raises(Stopped, match="after step 10 of 12"):
        distill_draft(settings, stop_file=str(stop), on_progress=ask_to_stop)
    assert not (Path(settings.output) / "draft").exists()
    stop.unlink()
    distill_draft(settings, resume=True)
    for name, weight in weights_of(settings).items():
        assert torch.equal(weight, weights_of(straight)[name]), name
    assert not (Path(settings.output) / "state.safetensors").exists()


def test_another_run_is_refused_its_folder(settings: DraftSettings) -> None:
    distill_draft(replace(settings, steps=1))
    with pytest.raises(ValueError, match="holds a run already"):
        distill_draft(replace(settings, steps=1))
    with pytest.raises(ValueError, match=r"other settings \(depth\)"):
        distill_draft(replace(settings, steps=1, depth=2), resume=True)


def test_features_on_disk_are_read_and_not_made_again(settings: DraftSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = read_draft_data(settings, lambda _: None)
    monkeypatch.setattr("speckd.training.draft_text._teacher_pass", None)
    again = read_draft_data(settings, lambda _: None)
    assert torch.equal(kept.texts.features, again.texts.features) and torch.equal(kept.texts.best, again.texts.best)


def test_a_draft_goes_on_from_another_with_its_vocabulary(settings: DraftSettings, tmp_path: Path) -> None:
    _, first = distill_draft(settings)
    start = str(Path(settings.output) / "draft")
    more = replace(settings, output=str(tmp_path / "more"), start=start, vocabulary=7, steps=1, learning_rate=1e-9)
    told, second = distill_draft(more)
    assert first is not None and second is not None
    assert second.agreement == pytest.approx(first.agreement, abs=0.02)  # read back from bfloat16, and hardly moved
    assert f":start={start}" in told["command"] and parse_draft(f"eagle:start={start}") == {"start": start}


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [{"divergence": "acceptance"}, {"gate": "topk:k=3:beta=0"}, {"precision": "bf16"}, {"temperature": 2.0}],
)
def test_every_loss_trains(settings: DraftSettings, more: dict[str, str]) -> None:
    rows: list[dict[str, Any]] = []
    distill_draft(replace(settings, steps=20, **more), on_row=rows.append)
    assert rows[-1]["loss"] < rows[0]["loss"] or rows[0]["loss"] == 0


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"divergence": "guess"}, "For a draft there is 'acceptance' too"),
        ({"gate": "speck"}, "does not judge rows of a draft"),
        ({"depth": 0}, "a depth from 1"),
        ({"steps": 0, "epochs": 0.0}, "no steps to train"),
        ({"precision": "fp16"}, "choose full or bf16"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: DraftSettings, more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(settings, **more)


def test_a_drafts_name_carries_its_knobs() -> None:
    assert parse_draft("eagle:vocab=16384:inner=2048:single=0.5") == {"vocabulary": 16384, "inner": 2048, "single": 0.5}
    for text, sentence in (
        ("medusa", "choose eagle"),
        ("eagle:width=3", "has no 'width'"),
        ("eagle:depth=x", "write a number"),
    ):
        with pytest.raises(ValueError, match=sentence):
            parse_draft(text)


def test_the_command_trains_a_draft_with_the_settings_that_the_shell_shows(
    settings: DraftSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["distill", settings.data, "--draft", "eagle:vocab=40:depth=2", "--teacher", settings.teacher]
    assert main([*command, "--output", settings.output, "--steps", "2", "--device", "cpu"]) == 0
    assert "The draft is in" in capsys.readouterr().out
    kept = json.loads((Path(settings.output) / "settings.json").read_text())
    assert (kept["batch_size"], kept["learning_rate"], kept["gate"]) == (
        defaults.BATCH_SIZE,
        defaults.LEARNING_RATE,
        "none",
    )
