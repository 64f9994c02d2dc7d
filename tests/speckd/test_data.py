"""Lines of data into token ids and batches: what counts as the response, what is cut, and which line is bad."""

import json
from pathlib import Path

import pytest
import torch

from speckd.data import (
    IGNORED,
    BadLine,
    ResponseDataset,
    ShuffledByLength,
    collate,
    read_examples,
    response_rows,
    row_names,
)
from tests import tiny

TOKENIZER = tiny.tokenizer()
GOOD = {"prompt": "Why?", "response": "Because."}


def rendered(messages: list[dict[str, str]]) -> list[int]:
    """The template's own ids, without the newline after the last turn."""
    text = TOKENIZER.apply_chat_template(messages, tokenize=False).rstrip()
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def write(folder: Path, *lines: object) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), "utf-8")
    return path


def test_the_response_ends_with_the_end_of_turn_token_and_not_with_the_templates_newline() -> None:
    example = read_examples([GOOD], TOKENIZER).examples[0]
    assert TOKENIZER.decode(example.response_ids) == "Because.<|im_end|>"
    whole = TOKENIZER.apply_chat_template(
        [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}], return_dict=False
    )
    assert TOKENIZER.decode(whole).endswith("<|im_end|>\n")  # the newline that must not be in it
    assert example.prompt_ids + example.response_ids == whole[:-1]


def test_chat_messages_and_prompt_with_response_are_the_same_example() -> None:
    messages = [{"role": "user", "content": "Why?"}]
    forms = [
        GOOD,
        {"messages": [*messages, {"role": "assistant", "content": "Because."}]},
        {"messages": messages, "response": "Because."},
        {"prompt": messages, "response": "Because."},
    ]
    examples = read_examples(forms, TOKENIZER).examples
    assert len({(tuple(example.prompt_ids), tuple(example.response_ids)) for example in examples}) == 1
    assert [example.number for example in examples] == [1, 2, 3, 4]


def test_every_turn_of_the_assistant_is_trained_or_the_last_alone() -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    example = read_examples([row], TOKENIZER, turns="last").examples[0]
    assert TOKENIZER.decode(example.response_ids) == "d<|im_end|>" and example.trained is None
    example = read_examples([row], TOKENIZER).examples[0]
    assert example.prompt_ids + example.response_ids == rendered(row["messages"])
    trained = [token for token, mark in zip(example.response_ids, example.trained, strict=True) if mark]
    assert TOKENIZER.decode(trained) == "b<|im_end|>d<|im_end|>" and example.n_trained == len(trained)
    batch = collate([ResponseDataset([example])[0]], pad_id=0)
    assert TOKENIZER.decode(batch["labels"][batch["labels"] != -100]) == "b<|im_end|>d<|im_end|>"


def test_an_unfinished_response_has_no_end_of_turn_token() -> None:
    example = read_examples([{**GOOD, "finished": False}], TOKENIZER).examples[0]
    assert TOKENIZER.decode(example.response_ids) == "Because."


def test_token_ids_that_a_model_wrote_are_kept_and_foreign_ones_are_not() -> None:
    own = TOKENIZER("Because.", add_special_tokens=False)["input_ids"] + [TOKENIZER.eos_token_id]
    kept, foreign = read_examples(
        [{**GOOD, "response_ids": own}, {**GOOD, "response_ids": [1, 2, 3]}], TOKENIZER
    ).examples
    assert kept.response_ids == own and foreign.response_ids == own


def test_a_long_response_is_cut_at_its_end_and_the_cut_is_counted() -> None:
    n_prompt = len(read_examples([GOOD], TOKENIZER).examples[0].prompt_ids)
    found = read_examples([GOOD, {"prompt": "Why?", "response": "x" * 50}], TOKENIZER, max_length=n_prompt + 20)
    assert [len(example.response_ids) for example in found.examples] == [9, 20]
    assert (found.n_cut, found.n_cut_tokens) == (1, 31)
    assert "31 tokens cut from the end of 1 responses" in found.summary()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{not json", "it is not JSON"),
        ("[1, 2]", "it is not a JSON object"),
        ({"response": "b"}, 'neither a "prompt"'),
        ({"prompt": "  ", "response": "b"}, 'neither a "prompt"'),
        ({"prompt": "a"}, "no response with text"),
        ({"prompt": "a", "response": ""}, "no response with text"),
        ({"prompt": "a", "response": 3}, '"response" is not text'),
        ({"messages": [{"role": "user"}], "response": "b"}, 'no "content"'),
        ({"messages": [{"role": "assistant", "content": "b"}]}, "no prompt before the response"),
        ({"prompt": "\ud800", "response": "b"}, "lone surrogate"),
        ({"prompt": "a" * 3000, "response": "b"}, "leaves none for a response"),
    ],
)
def test_a_bad_line_is_named_by_its_number_or_skipped_and_counted(tmp_path: Path, line: object, words: str) -> None:
    path = write(tmp_path, GOOD, line, GOOD)
    with pytest.raises(BadLine, match="line 2: ") as caught:
        read_examples(path, TOKENIZER)
    assert words in str(caught.value) and "on_bad='skip'" in str(caught.value)
    found = read_examples(path, TOKENIZER, on_bad="skip")
    assert len(found) == 2 and [number for number, _ in found.skipped] == [2]
    assert words in found.skipped[0][1] and "1 bad lines skipped (2;" in found.summary()


def test_bytes_that_are_not_utf8_are_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\xff\xfe\n")
    with pytest.raises(BadLine, match="line 2: it is not UTF-8"):
        read_examples(path, TOKENIZER)


def test_nothing_to_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no example\. It is empty"):
        read_examples(write(tmp_path), TOKENIZER)
    with pytest.raises(ValueError, match="All 1 lines are bad"):
        read_examples(write(tmp_path, "nonsense"), TOKENIZER, on_bad="skip")
    with pytest.raises(ValueError, match="There is no file"):
        read_examples(tmp_path / "absent.jsonl", TOKENIZER)


def test_prompts_alone_are_read_where_a_model_writes_the_responses() -> None:
    example = read_examples([{"prompt": "Why?"}], TOKENIZER, needs_response=False).examples[0]
    assert example.response_ids == [] and example.messages[0]["content"] == "Why?"


def test_a_batch_marks_the_response_alone_though_padding_equals_the_end_token() -> None:
    assert TOKENIZER.pad_token_id == TOKENIZER.eos_token_id
    rows = [
        {"input_ids": [7, 8, 9, TOKENIZER.eos_token_id], "n_prompt": 2, "number": 11},
        {"input_ids": [5, 6], "n_prompt": 1, "number": 12},
    ]
    batch = collate(rows, TOKENIZER.pad_token_id)
    assert batch["labels"].tolist() == [
        [IGNORED, IGNORED, 9, TOKENIZER.eos_token_id],
        [IGNORED, 6, IGNORED, IGNORED],
    ]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    # the hidden state one position earlier predicts each of them
    assert response_rows(batch["labels"]).tolist() == [[False, True, True], [True, False, False]]
    sequences, positions = row_names(batch["labels"], batch["numbers"])
    assert sequences.tolist() == [11, 11, 12] and positions.tolist() == [0, 1, 0]


def test_the_order_is_shuffled_anew_each_epoch_and_the_same_for_a_seed() -> None:
    lengths = torch.randint(5, 80, (53,), generator=torch.Generator().manual_seed(0)).tolist()
    order = ShuffledByLength(lengths, 4, seed=3)
    first = list(order)
    assert len(first) == len(order) == 52 == len(set(first))
    order.set_epoch(1)
    assert list(order) != first
    order.set_epoch(0)
    assert list(order) == first
    assert list(ShuffledByLength(lengths, 4, seed=4)) != first


def test_the_order_puts_texts_of_like_length_into_one_step() -> None:
    lengths = torch.randint(5, 80, (640,), generator=torch.Generator().manual_seed(0)).tolist()

    def padded(group: int) -> int:
        order = list(ShuffledByLength(lengths, 8, seed=0, group=group))
        steps = [order[at : at + 8] for at in range(0, len(order), 8)]
        return sum(8 * max(lengths[index] for index in step) for step in steps)

    assert padded(16) < 0.7 * padded(1)


def test_fewer_examples_than_a_step_are_one_smaller_step() -> None:
    assert sorted(ShuffledByLength([3, 4, 5], 8, seed=0)) == [0, 1, 2]
