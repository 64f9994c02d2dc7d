"""Data as people have it: every form of a row and every kind of file gives the same conversation."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from speckd.data import read_examples
from speckd.data_files import check_source
from speckd.forms import FORMS, read_row
from tests import tiny

TOKENIZER = tiny.tokenizer()
PLAIN = {"prompt": "Why?", "response": "Because."}
USER, ASSISTANT = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
PARTS = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "completion": "Because."},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": [USER], "completion": "Because."},
        {"messages": [USER, ASSISTANT]},
        {"messages": json.dumps([USER, ASSISTANT])},
        {"messages": [USER], "response": "Because."},
        {"messages": [USER, ASSISTANT], "response": "Because."},
        {"messages": [{"role": "user", "content": PARTS}, ASSISTANT]},
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]},
        {"instruction": "Why?", "input": "", "output": "Because."},
        {"messages": [{**USER, "role": "User"}, {**ASSISTANT, "role": "Assistant"}]},
        {"messages": [USER, ASSISTANT, {"role": "user", "content": "And?"}]},  # a question that nobody answered
        {"Prompt": "Why?", " RESPONSE": "Because."},
        {"prompt": json.dumps([USER]), "completion": json.dumps([ASSISTANT])},  # as tables keep them
        {"messages": str([USER, ASSISTANT])},  # as pandas writes a list into a CSV
        {"messages": {"role": ["user", "assistant"], "content": ["Why?", "Because."]}},  # column by column
        {"messages": [{"role": "user", "value": "Why?"}, ASSISTANT]},
        {"messages": [{"role": "user", "content": {"type": "input_text", "text": "Why?"}}, ASSISTANT]},
        {"instruction": "Why?", "context": " ", "response": "Because.", "category": "x"},  # Dolly
        {"instruction": "Why?", "input": float("nan"), "system": float("nan"), "output": "Because."},
    ],
)
def test_every_form_is_the_same_example(row: dict[str, Any]) -> None:
    expected, came = (read_examples([given], TOKENIZER).examples[0] for given in (PLAIN, row))
    assert (came.prompt_ids, came.response_ids) == (expected.prompt_ids, expected.response_ids)


def test_alpacas_input_and_system_are_part_of_the_prompt() -> None:
    row = read_row({"instruction": "Sum up.", "input": "A text.", "output": "It.", "system": "Be brief."})
    assert [message["content"] for message in row.prompt] == ["Be brief.", "Sum up.\n\nA text."]


@pytest.mark.parametrize(
    "row",
    [
        {"system": "Be brief.", **PLAIN},
        {"system": "Be brief.", "messages": [USER, ASSISTANT]},
        {
            "system": "Be brief.",
            "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Yes."}],
        },
    ],
)
def test_a_system_text_beside_a_row_is_never_dropped(row: dict[str, Any]) -> None:
    assert [message["content"] for message in read_row(row).prompt] == ["Be brief.", "Why?"]
    assert [message["role"] for message in read_row({**row, "history": [["a", "b"]]}).prompt] == [
        *("system", "user", "assistant", "user")
    ]


def test_a_text_that_only_looks_like_messages_stays_text() -> None:
    row = read_row({"prompt": '[{"a": 1}]', "response": "[1, 2]"})
    assert row.prompt[0]["content"] == '[{"a": 1}]' and (row.response or {})["content"] == "[1, 2]"


def test_arrays_of_a_table_are_lists() -> None:
    numpy = pytest.importorskip("numpy")
    turns = numpy.array([USER, ASSISTANT], dtype=object)
    assert read_row({"messages": turns}).response == ASSISTANT
    assert read_row({**PLAIN, "finished": "False"}).finished is False


def test_sharegpts_function_call_is_a_call_of_the_assistant_and_nulls_of_tables_leave_no_trace() -> None:
    turns = [("human", "Why?"), ("function_call", '{"name": "f", "arguments": {"x": 1}}'), ("observation", "42")]
    row = read_row({"conversations": [{"from": who, "value": said} for who, said in [*turns, ("gpt", "Because.")]]})
    assert row.prompt[1]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]
    assert [message["role"] for message in row.prompt] == ["user", "assistant", "tool"]
    call = {"function": {"name": "f", "arguments": {"x": 1, "y": None}}}
    row = read_row({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]})
    assert (row.response or {})["tool_calls"][0]["function"]["arguments"] == {"x": 1}


def test_turns_that_are_marked_as_left_out_are_read_and_not_trained() -> None:
    def trained(*turns: dict[str, Any]) -> str:
        example = read_examples([{"messages": list(turns)}], TOKENIZER).examples[0]
        marks = example.trained or [True] * len(example.response_ids)
        return TOKENIZER.decode([token for token, mark in zip(example.response_ids, marks, strict=True) if mark])

    other = {"role": "assistant", "content": "Yes."}
    assert trained(USER, {**ASSISTANT, "weight": 0}, USER, {**other, "weight": 1}) == "Yes.<|im_end|>"
    assert trained(USER, ASSISTANT, USER, {**other, "train": False}) == "Because.<|im_end|>"
    assert trained(ASSISTANT, USER, other) == "Yes.<|im_end|>"  # a greeting answers nobody
    assert trained(USER, {**ASSISTANT, "content": ""}, USER, other) == "Yes.<|im_end|>"
    marked = tiny.tokenizer()
    marked.chat_template = (
        "{% for m in messages %}{{ m['role'] }}:{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    rows = [{"messages": [USER, {**ASSISTANT, "weight": 0}, USER, other]}]
    example = read_examples(rows, marked).examples[0]
    kept = [token for token, mark in zip(example.response_ids, example.trained or [], strict=True) if mark]
    assert "Because." not in marked.decode(kept) and marked.decode(kept).endswith("Yes.<|im_end|>")


def test_tables_and_packed_or_wrapped_files_are_read(tmp_path: Path) -> None:
    import gzip

    lines = json.dumps(PLAIN) + "\n" + json.dumps(PLAIN) + "\n"
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "wrapped.json").write_text(json.dumps({"data": [PLAIN, PLAIN]}))
    (tmp_path / "wrapped-over-lines.json").write_text(json.dumps({"version": 1, "data": [PLAIN, PLAIN]}, indent=2))
    (tmp_path / "semicolons.csv").write_text("prompt;response\nWhy?;Because.\nWhy?;Because.\n")
    sources: list[Any] = [*sorted(tmp_path.iterdir()), {"prompt": ["Why?"] * 2, "response": ["Because."] * 2}]
    (tmp_path / "one.json").write_text(json.dumps(PLAIN, indent=2))
    for source in sources:
        assert [example.response for example in read_examples(source, TOKENIZER).examples] == ["Because."] * 2, source
    assert len(read_examples(tmp_path / "one.json", TOKENIZER)) == 1
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([PLAIN, {"prompt": "And?"}])
    found = read_examples(frame, TOKENIZER, on_bad="skip")  # a cell without an answer is NaN there
    assert len(found) == 1 and "no response" in found.skipped[0][1]


def test_tools_and_reasoning_stay() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    turns = [USER, call, {"role": "tool", "content": "42"}, {**ASSISTANT, "reasoning_content": "Hm."}]
    row = read_row({"messages": turns, "tools": [{"type": "function"}]})
    assert row.tools == [{"type": "function"}] and row.prompt[1]["tool_calls"] == call["tool_calls"]
    assert row.response is not None and row.response["reasoning_content"] == "Hm."


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "Why?"}, 'neither a "prompt" with text nor "messages"'),
        ("text", "not a JSON object"),
        ({"conversations": [{"from": "nobody", "value": "x"}]}, "from 'nobody'"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ASSISTANT]}, "only text is read"),
        ({"messages": [ASSISTANT]}, "no prompt before the response"),
        ({"messages": [USER, ASSISTANT], "response": "No."}, "ends with an answer, and beside it stands another"),
        ({"question": "Why?", "answer": "x"}, "its names are question, answer"),
        ({**PLAIN, "tools": "{nope"}, '"tools" is no JSON list'),
        ({**PLAIN, "chat_template_kwargs": [1]}, '"chat_template_kwargs" is no JSON object'),
    ],
)
def test_a_row_of_no_form_is_refused_in_one_sentence(row: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_row(row)
    with pytest.raises(ValueError, match="completion"):
        read_row({"text": "x"})
    assert "instruction" in FORMS


def files(folder: Path) -> Iterator[Path]:
    import pyarrow
    import pyarrow.parquet

    rows = [PLAIN, {"prompt": 'Häh, "so"?\nYes', "response": "No."}]
    for name, text in (
        ("rows.jsonl", "\n".join(json.dumps(row) for row in rows)),
        ("rows.json", json.dumps(rows, indent=1)),
        ("array.jsonl", json.dumps(rows)),
    ):
        (folder / name).write_text(text, "utf-8")
        yield folder / name
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["prompt", "response"])
        writer.writeheader()
        writer.writerows(rows)
    yield folder / "rows.csv"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    yield folder / "rows.parquet"


def test_every_kind_of_file_gives_the_same_examples(tmp_path: Path) -> None:
    found = [
        [(e.prompt_ids, e.response_ids) for e in read_examples(path, TOKENIZER).examples] for path in files(tmp_path)
    ]
    assert len(found) == 5 and all(one == found[0] for one in found) and len(found[0]) == 2


def test_packed_files_splits_and_folders_of_files_are_read(tmp_path: Path) -> None:
    import bz2
    import gzip
    import lzma

    line = json.dumps(PLAIN) + "\n"
    for name, content in {
        "a.jsonl.bz2": bz2.compress(line.encode()),
        "b.jsonl.xz": lzma.compress(line.encode()),
        "c.v1.0.json": b"\n" + json.dumps([PLAIN], indent=1).encode(),
        "d.json": json.dumps({"train": [PLAIN], "test": [PLAIN, PLAIN]}).encode(),
        "e.json": json.dumps({"prompt": ["Why?"], "response": ["Because."]}).encode(),
        "f.csv": b"prompt|response\nWhy?|Because.\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert [e.response for e in read_examples(tmp_path / name, TOKENIZER).examples] == ["Because."], name
    assert len(read_examples(tmp_path / "d.json", TOKENIZER, split="test")) == 2
    assert [e.number for e in read_examples(tmp_path, TOKENIZER).examples] == [1, 2, 3, 4, 5, 7]  # a CSV counts lines
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "train-00000-of-00002.jsonl").write_text(line + line)
    (tmp_path / "sub" / "test-00000-of-00001.jsonl").write_text(line)
    assert len(read_examples(tmp_path / "sub", TOKENIZER)) == 2
    assert len(read_examples(tmp_path / "sub", TOKENIZER, split="test")) == 1
    with pytest.raises(ValueError, match="has no splits, and 'test' is asked for"):
        read_examples([PLAIN], TOKENIZER, split="test")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(line.encode() * 1000)[:-20])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz cannot be unpacked"):
        read_examples(tmp_path / "cut.jsonl.gz", TOKENIZER)
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"of a kind that is not read here \(.xlsx\)"):
        read_examples(tmp_path / "rows.xlsx", TOKENIZER)


def test_a_row_of_more_cells_than_names_is_a_bad_line_and_never_cut(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,response\nWhy?,Because.\nWhy?,Well, because.\n")
    found = read_examples(tmp_path / "rows.csv", TOKENIZER, on_bad="skip")
    assert (
        len(found) == 1 and found.skipped[0][0] == 3 and "it has 3 cells, and the head names 2" in found.skipped[0][1]
    )


def test_data_sets_of_the_library_are_read_and_a_stream_no_further_than_asked() -> None:
    datasets = pytest.importorskip("datasets")
    plain = datasets.Dataset.from_list([PLAIN, PLAIN])
    assert len(read_examples(plain, TOKENIZER)) == 2
    splits = datasets.DatasetDict({"train": plain, "test": plain.select([0])})
    assert len(read_examples(splits, TOKENIZER)) == 2 and len(read_examples(splits, TOKENIZER, split="test")) == 1
    with pytest.raises(ValueError, match=r"no split 'x': it has train, test"):
        read_examples(splits, TOKENIZER, split="x")
    read = []

    def rows() -> Iterator[dict[str, str]]:
        for number in range(1000):
            read.append(number)
            yield PLAIN

    assert len(read_examples(datasets.IterableDataset.from_generator(rows), TOKENIZER, limit=3)) == 3
    assert len(read) < 10


def test_a_name_that_is_neither_file_nor_hub_id_says_what_may_be_given(tmp_path: Path) -> None:
    for name in ("nothing.jsonl", str(tmp_path), "a/b/c", "data/rows.csv"):
        with pytest.raises(ValueError, match="Give a JSONL, JSON, CSV or Parquet file"):
            check_source(name)
    check_source("owner/name")
