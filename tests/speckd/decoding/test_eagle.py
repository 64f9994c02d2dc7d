"""The EAGLE-like draft drafts what it was trained to, reads back what it wrote, and refuses other teachers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from speckd.decoding.eagle import (
    DraftMismatch,
    EagleDraft,
    EagleLayer,
    EagleShape,
    read_draft,
    save_draft,
)
from tests.tiny import save_model

VOCABULARY = torch.arange(20, 120)
TEXT = [30, 31, 32, 33, 34]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return LlamaForCausalLM.from_pretrained(save_model(tmp_path_factory.mktemp("eagle") / "teacher")).eval()


@pytest.fixture(scope="module")
def layer(teacher: Any) -> EagleLayer:
    torch.manual_seed(3)
    made = EagleLayer(EagleShape.like(teacher, inner=24))
    for weight in made.parameters():
        if weight.ndim == 1:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def features(teacher: Any) -> torch.Tensor:
    """(5, H) the teacher's feature at each token of the text."""
    with torch.no_grad():
        return teacher.model(torch.tensor([TEXT])).last_hidden_state[0]


def before(features: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(features[:1]), features[:-1]])


def expected_logits(layer: EagleLayer, teacher: Any, features: torch.Tensor, chain: list[int]) -> torch.Tensor:
    """(1 + len(chain), V') by the training's unrolling of one chain from the text's last token."""
    ids = torch.tensor([TEXT + chain])
    padded = torch.cat([features, torch.full((len(chain), features.shape[1]), 9.0)])  # features that no step may read
    embedded = teacher.get_input_embeddings().weight[ids]
    steps = layer.unroll(embedded, padded[None], torch.tensor([[len(TEXT) - 1]]), 1 + len(chain))
    return torch.cat([step[0] for step in steps]) @ teacher.lm_head.weight[VOCABULARY].T


def test_drafting_a_chain_is_what_training_unrolled(layer: EagleLayer, teacher: Any, features: torch.Tensor) -> None:
    chain = [40, 41, 42]
    with torch.no_grad():
        expected = expected_logits(layer, teacher, features, chain)
    draft = EagleDraft(layer, VOCABULARY, teacher)
    rows = [draft.commit(TEXT, before(features), [])]
    for node, token in enumerate(chain):
        rows.append(draft.extend([token], [node - 1])[0])
    torch.testing.assert_close(torch.stack(rows), expected, rtol=1e-4, atol=1e-4)


def test_each_path_of_a_tree_is_a_chain(layer: EagleLayer, teacher: Any, features: torch.Tensor) -> None:
    draft = EagleDraft(layer, VOCABULARY, teacher)
    draft.commit(TEXT, before(features), [])
    first = draft.extend([40, 50], [-1, -1])
    second = draft.extend([41, 51, 52], [0, 1, 1])
    third = draft.extend([60], [3])
    with torch.no_grad():
        for path, rows in (
            ([40, 41], [first[0], second[0]]),
            ([50, 51, 60], [first[1], second[1], third[0]]),
            ([50, 52], [first[1], second[2]]),
        ):
            expected = expected_logits(layer, teacher, features, path)[1:]
            torch.testing.assert_close(torch.stack(rows), expected, rtol=1e-4, atol=1e-4)


def test_a_new_round_forgets_what_was_drafted(layer: EagleLayer, teacher: Any, features: torch.Tensor) -> None:
    draft, straight = EagleDraft(layer, VOCABULARY, teacher), EagleDraft(layer, VOCABULARY, teacher)
    draft.commit(TEXT[:3], before(features)[:3], [])
    draft.extend([90], [-1])
    draft.extend([91], [0])
    came = draft.commit(TEXT[3:], before(features)[3:], [0])
    torch.testing.assert_close(came, straight.commit(TEXT, before(features), []), rtol=1e-4, atol=1e-4)
    again = draft.fresh()
    torch.testing.assert_close(again.commit(TEXT, before(features), []), came, rtol=1e-4, atol=1e-4)


def test_a_chain_does_not_see_what_other_roots_or_later_features_hold(layer: EagleLayer, teacher: Any) -> None:
    torch.manual_seed(0)
    embedded, features = torch.randn(1, 8, 16), torch.randn(1, 8, 16)
    roots = torch.tensor([[2, 3, 4]])
    steps = layer.unroll(embedded, features, roots, 3)
    changed = features.clone()
    changed[:, 2:] += 5.0  # the feature at the first root and later ones: its chain reads those before it alone
    others = layer.unroll(embedded, changed, roots, 3)
    for step, other in zip(steps, others, strict=True):
        torch.testing.assert_close(step[:, 0], other[:, 0])
        assert not torch.allclose(step[:, 1], other[:, 1], atol=1e-3)


def test_the_prompts_own_tokens_may_be_drafted(layer: EagleLayer, teacher: Any, features: torch.Tensor) -> None:
    narrow, wide = EagleDraft(layer, torch.tensor([31, 60]), teacher), EagleDraft(layer, VOCABULARY, teacher)
    rows, all_rows = narrow.commit(TEXT, before(features), []), wide.commit(TEXT, before(features), [])
    assert narrow.vocabulary.tolist() == [*TEXT, 60]
    torch.testing.assert_close(rows, all_rows[narrow.vocabulary - 20], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(narrow.extend([40], [-1]), wide.extend([40], [-1])[:, narrow.vocabulary - 20])
    assert narrow.fresh().vocabulary.tolist() == [31, 60]


def test_a_draft_comes_back_from_its_file(layer: EagleLayer, tmp_path: Path) -> None:
    save_draft(tmp_path / "draft", layer, VOCABULARY, "ab" * 32, {"n_steps": 3})
    again, vocabulary, head = read_draft(tmp_path / "draft", "ab" * 32)
    assert torch.equal(vocabulary, VOCABULARY) and head["n_steps"] == 3
    for name, weight in layer.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight.bfloat16().float())


def test_a_draft_of_another_teacher_is_refused_in_one_sentence(layer: EagleLayer, tmp_path: Path) -> None:
    save_draft(tmp_path / "draft", layer, VOCABULARY, "ab" * 32)
    with pytest.raises(DraftMismatch, match="made for a teacher with sha256 abababababab, this one has cdcdcdcdcdcd"):
        read_draft(tmp_path / "draft", "cd" * 32)


@pytest.mark.parametrize("file", ["draft.safetensors", "draft.json"])
def test_a_damaged_draft_is_refused_in_one_sentence(layer: EagleLayer, tmp_path: Path, file: str) -> None:
    save_draft(tmp_path / "draft", layer, VOCABULARY, "ab" * 32)
    path = tmp_path / "draft" / file
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DraftMismatch, match="cut off or damaged"):
        read_draft(tmp_path / "draft", "ab" * 32)
    with pytest.raises(OSError, match="There is no draft"):
        read_draft(tmp_path / "nothing", "ab" * 32)
