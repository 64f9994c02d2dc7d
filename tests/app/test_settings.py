import ast
import inspect
import re
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from app.settings import LOCAL, ON_A_SPACE, SMOLLM2, PinnedPair, Settings, place_line, settings_for

ROOT = Path(__file__).parents[2]
SPACE = {"SPACE_ID": "someone/speckd"}
NUMBERS = [setting.name for setting in fields(Settings) if setting.type is int]


def test_a_laptop_is_open_and_a_space_is_limited() -> None:
    assert settings_for({}) == Settings()
    space = settings_for(SPACE)
    assert replace(space, hosts=LOCAL) == ON_A_SPACE
    assert not space.own_models and space.max_new_tokens < Settings().max_new_tokens


def test_zero_gpu_counts_on_a_space_alone() -> None:
    assert not settings_for({"SPACES_ZERO_GPU": "true"}).zero_gpu
    assert settings_for({**SPACE, "SPACES_ZERO_GPU": "true"}).zero_gpu


@pytest.mark.parametrize("name", NUMBERS)
def test_each_limit_is_overridden_by_its_variable(name: str) -> None:
    for place in ({}, SPACE):
        assert getattr(settings_for({**place, f"SPECKD_{name.upper()}": "7"}), name) == 7


def test_switches_and_pairs_are_overridden_too() -> None:
    assert settings_for({**SPACE, "SPECKD_OWN_MODELS": "yes"}).own_models
    assert not settings_for({"SPECKD_OWN_MODELS": "no"}).own_models
    one, two = "a" * 40, "b" * 40
    text = f"x/T@{one}+x/S@{two}, y.z/T-1@{two}+y.z/S_1@{one}"
    pairs = settings_for({**SPACE, "SPECKD_PAIRS": text}).pairs
    assert pairs == (PinnedPair("x/T", "x/S", one, two), PinnedPair("y.z/T-1", "y.z/S_1", two, one))
    assert settings_for({**SPACE, "SPECKD_PAIRS": ""}).pairs == ()


@pytest.mark.parametrize("text", ["x/T+x/S", "x/T@main+x/S@main", "x/T@abc+x/S@abc", f"/etc@{'a' * 40}+x/S@{'b' * 40}"])
def test_a_pair_without_full_commits_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="SPECKD_PAIRS"):
        settings_for({"SPECKD_PAIRS": text})


def test_where_the_page_runs_cannot_be_pretended() -> None:
    assert settings_for({"SPECKD_PLACE": "space", "SPECKD_ZERO_GPU": "1"}) == Settings()


@pytest.mark.parametrize("value", ["many", "-3", "0", "1.5", "", "٣", "1e3"])
def test_a_limit_that_is_no_number_is_refused_by_name(value: str) -> None:
    with pytest.raises(ValueError, match="SPECKD_MAX_NEW_TOKENS"):
        settings_for({"SPECKD_MAX_NEW_TOKENS": value})


def test_each_setting_has_its_reason() -> None:
    words = inspect.getdoc(Settings) or ""
    told = {found[1] for found in re.finditer(r"^ *(\w+): \S", words.split("Attributes:")[1], re.MULTILINE)}
    assert {setting.name for setting in fields(Settings)} == told


def test_each_limit_is_used() -> None:
    """A limit that nothing asks for protects nobody."""
    used: set[str] = set()
    for path in (ROOT / "app").rglob("*.py"):
        if path.name != "settings.py":
            used |= {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    used |= {"place"}  # place_line's
    assert {setting.name for setting in fields(Settings)} - used == set()


def test_a_space_allows_no_more_than_a_laptop() -> None:
    for name in NUMBERS:
        assert getattr(ON_A_SPACE, name) <= getattr(Settings(), name), name


def test_a_request_has_room_for_the_largest_thing_that_may_be_sent() -> None:
    for settings in (Settings(), ON_A_SPACE):
        largest = max(settings.max_trace_bytes, settings.max_data_bytes)
        assert settings.max_request_bytes >= 1.5 * largest, "as JSON inside JSON"


def test_listed_pairs_are_pinned_to_full_commits() -> None:
    for pair in ON_A_SPACE.pairs:
        for revision in (pair.teacher_revision, pair.student_revision):
            assert re.fullmatch(r"[0-9a-f]{40}", revision)
    assert ON_A_SPACE.pair(SMOLLM2.teacher, SMOLLM2.student) == SMOLLM2
    assert ON_A_SPACE.pair(SMOLLM2.student, SMOLLM2.teacher) is None


@pytest.mark.parametrize(
    ("environment", "gpu", "words"),
    [
        ({}, None, "On this machine, without a GPU."),
        ({}, "NVIDIA T4", "On this machine, with its GPU (NVIDIA T4)."),
        (SPACE, None, "On a Hugging Face Space without a GPU."),
        (SPACE, "NVIDIA T4", "On a Hugging Face Space with a GPU (NVIDIA T4)."),
        (
            {**SPACE, "SPACES_ZERO_GPU": "1"},
            "anything",
            "On a Hugging Face Space that borrows a GPU, 60 seconds at a time.",
        ),
    ],
)
def test_one_line_says_where_the_page_runs(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], gpu: str | None, words: str
) -> None:
    cuda: Any = SimpleNamespace(is_available=lambda: gpu is not None, get_device_name=lambda _: gpu)
    monkeypatch.setattr(torch, "cuda", cuda)
    assert place_line(settings_for(environment)) == words
