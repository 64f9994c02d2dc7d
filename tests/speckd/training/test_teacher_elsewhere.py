"""A teacher in a file or behind a server: what is kept, what is refused, and that both tell the same."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import speckd
from speckd.data import Example
from speckd.top_tokens import TopTokens
from speckd.training import teacher_server
from speckd.training.teacher_cache import tokenizer_sha256
from speckd.training.teacher_file import LocalTeacher, TeacherFile, TeacherFileError, write_teacher_file
from speckd.training.teacher_server import KEY_VARIABLE, ServerError, TeacherServer

K = 12


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    torch.manual_seed(0)
    made = []
    for number, (n_prompt, n_response) in enumerate([(3, 5), (7, 1), (2, 11), (4, 6), (5, 3)], start=1):
        ids = torch.randint(0, 250, (n_prompt + n_response,)).tolist()
        made.append(Example(ids[:n_prompt], ids[n_prompt:], number))
    return made


@pytest.fixture(scope="module")
def source(tiny_pair: speckd.Pair) -> LocalTeacher:
    return LocalTeacher(tiny_pair.teacher, "tiny", tiny_pair.teacher_sha256, n_kept=K, temperature=1.0)


@pytest.fixture
def checksum(tiny_pair: speckd.Pair) -> str:
    return tokenizer_sha256(tiny_pair.tokenizer)


def logits_of(pair: speckd.Pair, example: Example) -> torch.Tensor:
    with torch.no_grad():
        logits = pair.teacher(torch.tensor([example.prompt_ids + example.response_ids])).logits[0]
    return logits[len(example.prompt_ids) - 1 : -1]


def test_a_file_holds_the_teachers_likeliest_tokens_in_order_with_the_mass_of_the_others(
    tiny_pair: speckd.Pair, source: LocalTeacher, examples: list[Example], checksum: str, tmp_path: Path
) -> None:
    file = write_teacher_file(tmp_path / "t.teach", source, examples, checksum, batch_size=2)
    for example in examples:
        logprobs = torch.log_softmax(logits_of(tiny_pair, example), -1)
        rows = file.rows(example)
        expected = logprobs.sort(dim=-1, descending=True, stable=True)
        assert torch.equal(rows.ids, expected.indices[:, :K])
        # half precision has eleven bits
        torch.testing.assert_close(rows.logprobs, expected.values[:, :K], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(rows.rest.exp(), expected.values[:, K:].exp().sum(-1), rtol=1e-4, atol=1e-7)
    assert file.n_examples == len(examples) and file.n_rows == 26
    masses = torch.cat([file.rows(example).mass for example in examples])
    assert file.mean_mass == pytest.approx(masses.mean().item(), abs=1e-5)
    assert file.least_mass == pytest.approx(masses.min().item(), abs=1e-5)


def test_a_row_costs_four_bytes_a_token_and_four_more(
    source: LocalTeacher, examples: list[Example], checksum: str, tmp_path: Path
) -> None:
    file = write_teacher_file(tmp_path / "t.teach", source, examples, checksum)
    size = (tmp_path / "t.teach").stat().st_size
    data = file.n_rows * (4 * K + 4) + file.n_examples * 40 + 8
    assert data < size < data + 1500  # and the header


def test_it_is_an_ordinary_safetensors_file(
    source: LocalTeacher, examples: list[Example], checksum: str, tmp_path: Path
) -> None:
    from safetensors import safe_open

    write_teacher_file(tmp_path / "t.teach", source, examples, checksum)
    with safe_open(str(tmp_path / "t.teach"), framework="np") as tensors:
        assert set(tensors.keys()) == {"starts", "ids", "logprobs", "rest", "keys"}
        assert tensors.get_tensor("ids").shape == (26, K)
        assert tensors.metadata()["k"] == str(K)


def test_an_interrupted_making_goes_on_where_it_stood(
    source: LocalTeacher, examples: list[Example], checksum: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speckd.training.teacher_file.PART_ROWS", 1)
    asked: list[int] = []

    class Failing:
        n_kept, temperature, vocabulary_size = source.n_kept, source.temperature, source.vocabulary_size
        teacher_id, teacher_sha256 = source.teacher_id, source.teacher_sha256
        limit = 2

        def top_tokens(self, batch: list[Example]) -> list[Any]:
            if len(asked) >= self.limit:
                raise KeyboardInterrupt
            asked.extend(example.number for example in batch)
            return source.top_tokens(batch)

    failing = Failing()
    with pytest.raises(KeyboardInterrupt):
        write_teacher_file(tmp_path / "t.teach", failing, examples, checksum, batch_size=1)
    assert not (tmp_path / "t.teach").exists()
    failing.limit = 99
    file = write_teacher_file(tmp_path / "t.teach", failing, examples, checksum, batch_size=1)
    assert sorted(asked) == [1, 2, 3, 4, 5]  # each was asked once
    assert all(example in file for example in examples)
    assert [path.name for path in tmp_path.iterdir()] == ["t.teach"]


def test_parts_of_another_making_are_refused(
    source: LocalTeacher, examples: list[Example], checksum: str, tmp_path: Path
) -> None:
    (tmp_path / "t.teach.parts").mkdir()
    (tmp_path / "t.teach.parts" / "head.json").write_text("{}")
    with pytest.raises(TeacherFileError, match="parts of another teacher"):
        write_teacher_file(tmp_path / "t.teach", source, examples, checksum)


def test_what_is_damaged_foreign_or_absent_is_refused(
    source: LocalTeacher, examples: list[Example], checksum: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.teach"
    file = write_teacher_file(path, source, examples, checksum)
    file.check(examples, checksum, 1.0)
    with pytest.raises(TeacherFileError, match="another tokenizer"):
        file.check(examples, "0" * 64, 1.0)
    with pytest.raises(TeacherFileError, match="taken at temperature 1, and 2 is asked for"):
        file.check(examples, checksum, 2.0)
    with pytest.raises(TeacherFileError, match="example 9 is not in it"):
        file.check([Example([1, 2], [3], 9)], checksum, 1.0)
    raw = bytearray(path.read_bytes())
    raw[-40] ^= 1
    path.write_bytes(raw)
    with pytest.raises(TeacherFileError, match="checksum differs"):
        TeacherFile(path)
    path.write_bytes(raw[:-100])
    with pytest.raises(TeacherFileError, match="its length differs"):
        TeacherFile(path, verify=False)  # told at once, and not in the middle of a run
    with pytest.raises(TeacherFileError, match="is a folder"):
        TeacherFile(tmp_path)
    path.write_bytes(b"not a file of ours at all")
    with pytest.raises(TeacherFileError, match="no teacher's file"):
        TeacherFile(path)
    with pytest.raises(TeacherFileError, match="There is no file"):
        TeacherFile(tmp_path / "absent")


def test_an_existing_file_is_never_written_over(
    source: LocalTeacher, examples: list[Example], checksum: str, tmp_path: Path
) -> None:
    (tmp_path / "t.teach").write_text("precious")
    with pytest.raises(ValueError, match="exists"):
        write_teacher_file(tmp_path / "t.teach", source, examples, checksum)


# --- a server -----------------------------------------------------------------------------------------------------


class Served:
    """A small OpenAI-compatible server over a model, with vLLM's prompt_logprobs and its limit."""

    def __init__(self, pair: speckd.Pair, max_logprobs: int = 20) -> None:
        self.pair, self.max_logprobs, self.key, self.silent = pair, max_logprobs, "", False
        self.refusals: list[tuple[int, dict[str, str]]] = []  # status and headers of the next answers
        self.mangled: Any = None  # what becomes of each row that is told
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.reply(200, {"data": [{"id": "served"}]})

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if outer.refusals:
                    code, headers = outer.refusals.pop(0)
                    self.reply(code, {"error": {"message": "busy"}}, headers)
                elif outer.key and self.headers.get("Authorization") != f"Bearer {outer.key}":
                    self.reply(401, {"error": {"message": "Unauthorized"}})
                elif asked["prompt_logprobs"] > outer.max_logprobs:
                    words = (
                        f"Requested prompt logprobs of {asked['prompt_logprobs']}, which is greater than max allowed"
                    )
                    self.reply(400, {"error": {"message": f"{words}: {outer.max_logprobs}"}})
                else:
                    self.reply(200, outer.answer(asked))

            def reply(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
                text = json.dumps(body).encode()
                self.send_response(code)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        choices = []
        for index, ids in enumerate(asked["prompt"]):
            with torch.no_grad():
                logprobs = torch.log_softmax(self.pair.teacher(torch.tensor([ids])).logits[0].float(), -1)
            told: list[Any] = [None]
            for row, token in zip(logprobs[:-1], ids[1:], strict=True):
                chosen = {*row.topk(asked["prompt_logprobs"]).indices.tolist(), token}
                word = self.pair.tokenizer.decode
                told.append({str(t): {"logprob": row[t].item(), "decoded_token": word([t])} for t in chosen})
            if self.mangled is not None:
                told = [None, *(self.mangled(row) for row in told[1:])]
            choices.append({"index": index, "text": "", "prompt_logprobs": None if self.silent else told})
        return {"choices": choices[::-1]}  # in whatever order


@pytest.fixture
def served(tiny_pair: speckd.Pair) -> Iterator[Served]:
    server = Served(tiny_pair)
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_a_server_tells_what_the_model_here_would(
    served: Served, tiny_pair: speckd.Pair, source: LocalTeacher, examples: list[Example]
) -> None:
    teacher = TeacherServer(served.url, tokenizer=tiny_pair.tokenizer, n_kept=K)
    assert teacher.teacher_id == "served"
    for told, known in zip(teacher.top_tokens(examples), source.top_tokens(examples), strict=True):
        assert torch.equal(told.ids, known.ids)
        torch.testing.assert_close(told.logprobs, known.logprobs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(told.mass, known.mass, rtol=1e-5, atol=1e-6)


@pytest.mark.packaged
def test_a_server_over_the_packaged_teacher_tells_what_the_teacher_here_would(packaged_pair: speckd.Pair) -> None:
    server = Served(packaged_pair, max_logprobs=64)
    try:
        ids = packaged_pair.tokenizer("The sky is blue because air scatters blue light.")["input_ids"]
        example = Example(ids[:4], ids[4:], 1)
        told = TeacherServer(server.url, tokenizer=packaged_pair.tokenizer).top_tokens([example])[0]
        known = LocalTeacher(packaged_pair.teacher).top_tokens([example])[0]
        assert torch.equal(told.ids[:, :8], known.ids[:, :8])  # float32 sums in another order may swap rare tokens
        torch.testing.assert_close(told.logprobs, known.logprobs, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(told.mass, known.mass, rtol=1e-4, atol=1e-4)
    finally:
        server.http.shutdown()
        server.http.server_close()


def test_of_a_conversation_only_the_turns_that_train_are_told(
    served: Served, tiny_pair: speckd.Pair, source: LocalTeacher, checksum: str, tmp_path: Path
) -> None:
    example = Example([1, 2, 3], [4, 5, 6, 7, 8], 1, trained=[True, True, False, False, True])
    told = TeacherServer(served.url, tokenizer=tiny_pair.tokenizer, n_kept=K).top_tokens([example])[0]
    file = write_teacher_file(tmp_path / "t.teach", source, [example], checksum)
    expected = TopTokens.of(logits_of(tiny_pair, example)[[0, 1, 4]], K)
    for rows in (told, file.rows(example)):
        assert torch.equal(rows.ids, expected.ids)
        torch.testing.assert_close(rows.rest.exp(), expected.rest.exp(), rtol=1e-3, atol=1e-6)
    assert Example([1, 2, 3], [4, 5, 6, 7, 8], 1) not in file  # all turns are another question


def test_a_file_can_be_made_from_a_server(
    served: Served, tiny_pair: speckd.Pair, examples: list[Example], checksum: str, tmp_path: Path
) -> None:
    teacher = TeacherServer(served.url, tokenizer=tiny_pair.tokenizer, n_kept=K)
    file = write_teacher_file(tmp_path / "t.teach", teacher, examples, checksum)
    assert file.teacher_id == "served" and file.n_kept == K


def test_a_server_that_allows_fewer_log_probabilities_is_named_with_its_setting(
    served: Served, tiny_pair: speckd.Pair, examples: list[Example]
) -> None:
    teacher = TeacherServer(served.url, tokenizer=tiny_pair.tokenizer, n_kept=64)
    with pytest.raises(ServerError, match="--max-logprobs 64"):
        teacher.top_tokens(examples)


def test_a_server_without_prompt_log_probabilities_with_a_key_or_with_another_tokenizer_is_named(
    served: Served, tiny_pair: speckd.Pair, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = TeacherServer(served.url, tokenizer=tiny_pair.tokenizer, n_kept=K)
    served.silent = True
    with pytest.raises(ServerError, match="prompt_logprobs is needed"):
        teacher.top_tokens(examples)
    served.silent, served.key = False, "secret"
    with pytest.raises(ServerError, match=KEY_VARIABLE):
        teacher.top_tokens(examples)
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    assert len(teacher.top_tokens(examples)) == len(examples)

    class Other:
        def __len__(self) -> int:
            return 258

        def decode(self, ids: list[int]) -> str:
            return f"other{ids[0]}"

    with pytest.raises(ServerError, match="another tokenizer"):
        TeacherServer(served.url, tokenizer=Other(), n_kept=K).top_tokens(examples)


def test_a_busy_server_is_asked_again_and_a_broken_or_moved_one_named(
    served: Served, tiny_pair: speckd.Pair, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_server, "WAITS", (0.0, 0.0))
    teacher = TeacherServer(served.url, tokenizer=tiny_pair.tokenizer, n_kept=K)
    served.refusals = [(429, {}), (503, {})]
    assert len(teacher.top_tokens(examples)) == len(examples) and not served.refusals
    served.refusals = [(500, {})] * 3
    with pytest.raises(ServerError, match=r"refused \(500\): busy"):
        teacher.top_tokens(examples)
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    served.refusals = [(302, {"Location": "http://127.0.0.1:9/other"})]
    with pytest.raises(ServerError, match=r"sends on to http://127\.0\.0\.1:9/other"):
        teacher.top_tokens(examples)  # following it would hand the key to another machine
    served.refusals = [(200, {"Content-Length": "100000", "Connection": "close"})]
    with pytest.raises(ServerError, match="cannot be reached"):
        TeacherServer(served.url, "served", tiny_pair.tokenizer, n_kept=K, seconds=0.5).top_tokens(examples)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mangled", "says"),
    [
        (lambda row: {str(int(token) + 1): entry for token, entry in row.items()}, "other tokens than it was asked"),
        (lambda row: {f"word{token}": entry for token, entry in row.items()}, "in a form that is not vLLM's"),
        (lambda row: {token: entry["logprob"] for token, entry in row.items()}, "in a form that is not vLLM's"),
        (lambda row: {token: {"logprob": 0.5} for token in row}, "no log-probabilities: 0.5"),
    ],
)
def test_numbers_that_cannot_be_a_teachers_are_refused(
    mangled: Any, says: str, served: Served, tiny_pair: speckd.Pair, examples: list[Example]
) -> None:
    served.mangled = mangled
    with pytest.raises(ServerError, match=says):
        TeacherServer(served.url, tokenizer=tiny_pair.tokenizer, n_kept=K).top_tokens(examples)


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ServerError, match="cannot be reached"):
        TeacherServer("http://127.0.0.1:9/v1")
    with pytest.raises(ValueError, match="not the address"):
        TeacherServer("localhost:8000")
