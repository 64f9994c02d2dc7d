"""Pairs that several test files share."""

from pathlib import Path

import pytest

import speckd
from tests import tiny


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny teacher and a tiny, shallower student, saved to disk."""
    root = tmp_path_factory.mktemp("tiny")
    teacher = tiny.save_model(root / "teacher", layers=3, width=16, seed=1)
    student = tiny.save_model(root / "student", layers=2, width=24, seed=2)
    return teacher, student


@pytest.fixture(scope="session")
def tiny_pair(tiny_folders: tuple[Path, Path]) -> speckd.Pair:
    return speckd.load_pair(str(tiny_folders[0]), str(tiny_folders[1]), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def tiny_trace(tiny_pair: speckd.Pair) -> speckd.Trace:
    return speckd.inspect(tiny_pair, "Why?", response="Because <b>=1+1</b>, é 🦉\n\ttwo\x00 lines")


@pytest.fixture(scope="session")
def packaged_pair() -> speckd.Pair:
    return speckd.load_pair(device="cpu")
