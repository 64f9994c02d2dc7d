"""A student on the Hub: one card from both doors, its base by the Hub's name, nothing lost where it cannot be sent."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import speckd
from speckd.runs import publishing
from speckd.runs.distill import distill
from speckd.runs.settings import DistillSettings
from speckd.training.card import base_of
from speckd.training.config import SpecKDConfig
from speckd.training.prepare import prepare_student
from speckd.training.trainer import SpecKDTrainer
from tests import training_pair


class Hub:
    """Stands in for the Hub: keeps what it is sent."""

    def __init__(self, broken: bool = False) -> None:
        self.broken, self.sent = broken, {}  # type: ignore[var-annotated]

    def whoami(self) -> dict[str, str]:
        return {"name": "me"}

    def create_repo(self, name: str, **_: Any) -> None:
        self.made = name

    def upload_folder(self, repo_id: str, folder_path: str, **_: Any) -> None:
        if self.broken:
            raise ConnectionError("it is asleep")
        self.sent[repo_id] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return training_pair.save(tmp_path_factory.mktemp("pair"))


def settings(folders: tuple[str, str], tmp_path: Path, **others: Any) -> DistillSettings:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in training_pair.ROWS[:8]))
    shared = {"device": "cpu", "lora_rank": 2, "steps": 1, "teacher": folders[0], "student": folders[1]}
    return DistillSettings(str(data), str(tmp_path / "run"), **{**shared, **others})


def test_both_doors_send_the_student_with_one_card(
    folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub()
    monkeypatch.setattr(publishing, "_hub", lambda: hub)
    asked = settings(folders, tmp_path, push_to_hub="me/one", eval_data=str(tmp_path / "data.jsonl"))
    distill(asked)
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)
    pair = prepare_student(speckd.load_pair(*folders, device="cpu"), lora_rank=2)
    args = SpecKDConfig(output_dir=str(tmp_path / "out"), use_cpu=True, disable_tqdm=True, max_steps=1)
    trainer = SpecKDTrainer(pair, args, training_pair.ROWS[:8], training_pair.ROWS[:8])
    trainer.train()
    trainer.evaluate()
    trainer.hub_model_id = "me/two"
    trainer.push_to_hub()
    for name in ("me/one", "me/two"):
        card = hub.sent[name]["README.md"].decode()
        assert "adapter_model.safetensors" in hub.sent[name] and "library_name: peft" in card
        assert f'PeftModel.from_pretrained(base, "{name}")' in card and "| Divergence (nats a token) |" in card
        assert "base_model:" not in card  # a folder of this machine


def test_a_hub_that_does_not_answer_loses_no_student(
    folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_hub", lambda: Hub(broken=True))
    with pytest.raises(OSError, match=r"but did not reach the Hub .it is asleep.: send it by `hf upload me/one"):
        distill(settings(folders, tmp_path, push_to_hub="me/one"))
    hub = Hub()
    monkeypatch.setattr(publishing, "_hub", lambda: hub)
    distill(settings(folders, tmp_path, push_to_hub="me/one"), resume=True)  # trains nothing again
    assert "README.md" in hub.sent["me/one"]


def test_nobody_trains_for_hours_to_learn_that_the_hub_does_not_know_them(
    folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stranger(Hub):
        def whoami(self) -> dict[str, str]:
            raise OSError("401")

    monkeypatch.setattr(publishing, "_hub", Stranger)
    for name, words in (("me/one", "Log in with `hf auth login`"), ("one", "write it as OWNER/NAME")):
        with pytest.raises(ValueError, match=words):
            distill(settings(folders, tmp_path, push_to_hub=name), load=None)  # type: ignore[arg-type]
    race = settings(folders, tmp_path, push_to_hub="me/one", gates=("none", "topk:k=3"))
    assert [race.racer(gate).push_to_hub for gate in race.gates] == ["me/one-none", "me/one-topk-k3"]


def test_the_base_of_a_student_is_named_as_the_hub_names_it() -> None:
    def base(student_id: str, name: str, **more: Any) -> str | None:
        student = SimpleNamespace(config=SimpleNamespace(_name_or_path=name), **more)
        return base_of(SimpleNamespace(student=student, student_id=student_id, teacher_id="other/teacher"))  # type: ignore[arg-type]

    assert base("raw", "/cache/models--x/snapshots/0") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert base("owner/small", "owner/small") == "owner/small"  # not the teacher, who is no base of it
    assert base("mine", "/home/me/mine") is None
    adapter = {"default": SimpleNamespace(base_model_name_or_path="owner/base")}
    assert base("mine", "x", peft_config=adapter) == "owner/base"
