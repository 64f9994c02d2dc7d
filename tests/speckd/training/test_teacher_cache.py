"""The teacher cache: the same numbers without the teacher's trunk, and never another teacher's."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import speckd
from speckd import divergences
from speckd.data import read_examples
from speckd.heads import Head
from speckd.training.teacher_cache import (
    CacheMismatch,
    CacheWriter,
    TeacherCache,
    example_key,
    fill_cache,
    teacher_rows,
    tokenizer_sha256,
)
from tests import tiny

ROWS = [{"prompt": f"Number {n}?", "response": "one two three"[: 3 + n]} for n in range(9)]


@pytest.fixture
def pair(tiny_folders: tuple[Path, Path]) -> speckd.Pair:
    return speckd.load_pair(str(tiny_folders[0]), str(tiny_folders[1]), device="cpu")


def test_cached_rows_give_the_teachers_distribution(pair: speckd.Pair, tmp_path: Path) -> None:
    examples = read_examples(ROWS, pair.tokenizer).examples
    cache = fill_cache(tmp_path / "cache", pair.teacher, pair.tokenizer, examples, pair.teacher_sha256, batch_size=4)
    for example in examples:
        exact, kept = teacher_rows(pair.teacher, [example])[0], cache.rows(example)
        assert kept.dtype is torch.float16 and kept.shape == exact.shape == (len(example.response_ids), 16)
        head = Head.of(pair.teacher)
        p, q = (head.logits(hidden.float()).log_softmax(-1) for hidden in (exact, kept))
        assert divergences.forward_kl(p, q).max() < 1e-4  # float16 keeps 11 bits of each hidden number


def test_padding_in_the_batch_never_changes_what_is_cached(pair: speckd.Pair) -> None:
    examples = read_examples(ROWS, pair.tokenizer).examples
    together = teacher_rows(pair.teacher, examples)
    for example, hidden in zip(examples, together, strict=True):
        torch.testing.assert_close(hidden, teacher_rows(pair.teacher, [example])[0], rtol=1e-4, atol=1e-4)


def test_a_cache_of_another_teacher_tokenizer_or_text_is_refused(pair: speckd.Pair, tmp_path: Path) -> None:
    examples = read_examples(ROWS, pair.tokenizer).examples
    folder = tmp_path / "cache"
    fill_cache(folder, pair.teacher, pair.tokenizer, examples, pair.teacher_sha256)
    checksum = tokenizer_sha256(pair.tokenizer)
    with pytest.raises(CacheMismatch, match="belongs to another teacher"):
        TeacherCache(folder, "0" * 64, checksum)
    with pytest.raises(CacheMismatch, match="belongs to another teacher"):
        CacheWriter(folder, "0" * 64, checksum)
    with pytest.raises(CacheMismatch, match="belongs to another tokenizer"):
        TeacherCache(folder, pair.teacher_sha256, tokenizer_sha256(tiny.tokenizer(("zebra",))))
    cache = TeacherCache(folder, pair.teacher_sha256, checksum)
    other = replace(examples[3], response_ids=[*examples[3].response_ids[:-1], 5], number=77)
    with pytest.raises(CacheMismatch, match="made from other text: example 77"):
        cache.check([*examples, other])
    with pytest.raises(CacheMismatch, match="is not a teacher cache"):
        TeacherCache(tmp_path, pair.teacher_sha256, checksum)


def test_any_part_of_the_text_in_any_order_is_served(pair: speckd.Pair, tmp_path: Path) -> None:
    examples = read_examples(ROWS, pair.tokenizer).examples
    cache = fill_cache(tmp_path, pair.teacher, pair.tokenizer, examples, pair.teacher_sha256)
    cache.check(reversed(examples[2:5]))
    assert len(cache.rows(examples[4])) == len(examples[4].response_ids)


def test_an_interrupted_cache_goes_on_with_its_whole_shards(pair: speckd.Pair, tmp_path: Path) -> None:
    examples = read_examples(ROWS, pair.tokenizer).examples
    checksum = tokenizer_sha256(pair.tokenizer)
    with CacheWriter(tmp_path, pair.teacher_sha256, checksum, shard_rows=1) as writer:
        for example, hidden in zip(examples[:4], teacher_rows(pair.teacher, examples[:4]), strict=True):
            writer.add(example_key(example), hidden)
    (tmp_path / ".shard-0123.safetensors.99.tmp").write_bytes(b"half a shard")  # as a kill leaves it
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*")}
    assert len(before) == 4
    seen: list[tuple[int, int]] = []
    cache = fill_cache(
        tmp_path,
        pair.teacher,
        pair.tokenizer,
        examples,
        pair.teacher_sha256,
        on_progress=lambda *counts: seen.append(counts),
    )
    cache.check(examples)
    assert seen == [(9, 9)]  # five were left, in one batch
    assert all((tmp_path / name).stat().st_mtime_ns == time for name, time in before.items())
    assert fill_cache(tmp_path, None, pair.tokenizer, examples, pair.teacher_sha256).index.keys() == cache.index.keys()


def test_a_shard_that_was_cut_off_is_named(pair: speckd.Pair, tmp_path: Path) -> None:
    examples = read_examples(ROWS, pair.tokenizer).examples
    fill_cache(tmp_path, pair.teacher, pair.tokenizer, examples, pair.teacher_sha256)
    shard = next(tmp_path.glob("shard-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(CacheMismatch, match="is damaged: remove it"):
        TeacherCache(tmp_path, pair.teacher_sha256, tokenizer_sha256(pair.tokenizer))


def test_a_batch_reads_its_own_rows_alone(pair: speckd.Pair, tmp_path: Path) -> None:
    """Memory-mapped: opening the cache reads headers, not hidden states."""
    examples = read_examples(ROWS, pair.tokenizer).examples
    cache = fill_cache(tmp_path, pair.teacher, pair.tokenizer, examples, pair.teacher_sha256)
    assert cache._open == {}
    cache.rows(examples[0])
    with safe_open(str(next(iter(cache._open))), framework="pt") as tensors:
        assert tensors.get_slice("hidden").get_shape() == [sum(len(example.response_ids) for example in examples), 16]


def test_numbers_too_large_for_float16_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with CacheWriter(tmp_path, "a", "b") as writer, pytest.raises(ValueError, match="bfloat16"):
        writer.add("key", torch.full((2, 4), 1e6))
    with CacheWriter(tmp_path, "a", "b", dtype="bfloat16") as writer:
        writer.add("key", torch.full((2, 4), 1e6))
    with pytest.raises(ValueError, match="choose 'float16' or 'bfloat16'"):
        CacheWriter(tmp_path, "a", "b", dtype="int8")
