"""What a visitor may ask for: checked here, field by field, before anything is loaded or stands in line.

Every refusal is one sentence that says what to do.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import speckd
from app.checks import as_real, as_text, as_whole, is_whole
from app.settings import Settings
from speckd.gates import gate_from_text
from speckd.packaged import STUDENTS, cache_folder
from speckd.runs.settings import DistillSettings

TRAINED = "trained:"  # begins the name of a student that a visitor trained here; the rest only that visitor knows
SOURCES = ("teacher", "student", "given")
LARGEST_SEED = 2**31 - 1  # the page's; small enough to be exact in a browser
PROMPTS, ANSWERS, HELD_OUT = (
    "assets/prompts/train.jsonl",
    "assets/responses/train.jsonl",
    "assets/responses/heldout-greedy.jsonl",
)
LENGTH, OWN_LENGTH = 128, 256  # tokens of prompt and response: the shipped texts are short, a visitor's may be longer
SHIPPED_EXAMPLES = 96  # of the shipped data, so that their teacher cache is made once and stays small
HELD_OUT_EXAMPLES = 16
ANSWER_TOKENS = 40  # longest answer to the held-out prompt, before, in and after a run
GATES = ("topk", "speck", "none", "hellinger", "adakd", "student_entropy", "teacher_entropy", "random", "trim")
RESPONSES = ("file", "teacher", "student", "mixed")
ADAPTERS = tuple(name for name in STUDENTS if name != "raw")  # students that go on with the adapter that they have
DEFAULTS: dict[str, Any] = {
    "student": "young",
    "teacher": "packaged",
    "data": "shipped",
    "text": "",
    "responses": "file",
    "gates": ["topk:k=5:beta=0.01", "none"],
    "steps": 30,
    "batch_size": 4,
    "learning_rate": 0.001,
    "lora_rank": 64,
    "seed": 0,
}


@dataclass(frozen=True)
class Question:
    """What a visitor asks: arguments of speckd.load_pair and speckd.inspect. Made by ``read``, which checks them."""

    prompt: str
    teacher: str = "packaged"
    student: str = "healed"
    source: str = "teacher"
    do_sample: bool = False
    response: str | None = None
    max_new_tokens: int = 48
    temperature: float = 1.0
    seed: int = 0
    prefix_ids: tuple[int, ...] = ()

    @classmethod
    def read(cls, data: Mapping[str, Any], settings: Settings) -> "Question":
        """The question in the data that a page or a client sent.

        Raises:
            ValueError: one sentence for a person, when something is missing, too long or out of range.
        """
        # Long: one check after the other, a sentence each.
        if not isinstance(data, Mapping):
            raise ValueError("The question is no set of fields: send prompt, student and the rest by their names.")
        prompt = as_text(data.get("prompt"), "The question")
        if not prompt.strip():
            raise ValueError("The question is empty: type one, or choose an example.")
        if len(prompt) > settings.max_prompt_characters:
            raise ValueError(
                f"The question has {len(prompt):,} characters and the limit here is "
                f"{settings.max_prompt_characters:,}: shorten it, or put the long part into the given text."
            )
        teacher = as_text(data.get("teacher", "packaged"), "The teacher").strip()
        student = as_text(data.get("student", "healed"), "The student").strip()
        if not teacher or not student:
            missing = "student" if teacher else "teacher"
            raise ValueError(f"The {missing} has no name: give a Hub id such as owner/name, or a folder.")
        known = student in STUDENTS or student.startswith(TRAINED)
        listed = settings.pair(teacher, student) is not None
        if (teacher != "packaged" or not known) and not listed and not settings.own_models:
            others = "".join(f", or {pair.student} with the teacher {pair.teacher}" for pair in settings.pairs)
            raise ValueError(
                f"Here only the packaged pair can be used, with the student {', '.join(STUDENTS)}{others}. "
                "Run the page on your own machine for other models."
            )
        if max(len(teacher), len(student)) > 500:
            raise ValueError("The name of a model is too long: give a Hub id such as owner/name, or a folder.")
        source = data.get("source", "teacher")
        if source not in SOURCES:
            raise ValueError(f"The source {source!r:.60} is not known: choose teacher, student or given.")
        response = None
        if source == "given":
            response = as_text(data.get("response"), "The given text")
            if not response.strip():
                raise ValueError("The given text is empty: write the response that the two models should read.")
            if len(response) > settings.max_response_characters:
                raise ValueError(
                    f"The given text has {len(response):,} characters and the limit here is "
                    f"{settings.max_response_characters:,}: shorten it."
                )
        longest = settings.max_new_tokens
        prefix = data.get("prefix_ids") or ()
        if (
            not isinstance(prefix, Sequence)
            or isinstance(prefix, str)
            or not all(is_whole(i) and i >= 0 for i in prefix)
        ):
            raise ValueError("The start of the response is not a list of token ids.")
        if len(prefix) >= longest:
            raise ValueError(f"The response already has {len(prefix)} tokens and the limit here is {longest}.")
        n_new = as_whole(data.get("max_new_tokens", 48), "The length", 1, longest, " tokens")
        return cls(
            prompt=prompt,
            teacher=teacher,
            student=student,
            source=source,
            do_sample=bool(data.get("do_sample", False)) and source != "given",
            response=response,
            max_new_tokens=max(n_new, len(prefix) + 1),
            temperature=as_real(data.get("temperature", 1.0), "The temperature", 0.05, 5.0),
            seed=as_whole(data.get("seed", 0), "The seed", 0, LARGEST_SEED),
            prefix_ids=() if source == "given" else tuple(int(i) for i in prefix),
        )


def read_gate(data: Mapping[str, Any]) -> tuple[speckd.Gate, str]:
    """The gate and the divergence in the data that a client sent.

    Raises:
        ValueError: one sentence, when something is unknown or out of range.
    """
    kind = data.get("gate", "topk")
    if kind not in ("topk", "speck", "none"):
        raise ValueError(f"The gate {kind!r:.60} is not known: choose topk, speck or none.")
    k = as_whole(data.get("k", 5), "k", 1, 50)
    beta = as_real(data.get("beta", 0.01), "beta", 0.0, 1.0)
    divergence = data.get("divergence", "forward_kl")
    if divergence not in speckd.DIVERGENCES:
        raise ValueError(
            f"The divergence {divergence!r:.60} is not known: choose one of {', '.join(speckd.DIVERGENCES)}."
        )
    gate = speckd.AllOpen() if kind == "none" else speckd.gate_named(kind, k=k, beta=beta)
    return gate, divergence


@dataclass(frozen=True)
class TrainingRequest:
    """What a visitor asks for. Made by ``read``, which checks it; ``settings`` turns it into a run's settings."""

    student: str
    teacher: str
    data: str
    text: str
    responses: str
    gates: tuple[str, ...]
    steps: int
    batch_size: int
    learning_rate: float
    lora_rank: int
    seed: int

    @classmethod
    def read(cls, data: Mapping[str, Any], settings: Settings) -> "TrainingRequest":
        """The request in the data that a page or a client sent.

        Raises:
            ValueError: one sentence for a person, when something is missing, too long or out of range.
        """
        if not isinstance(data, Mapping):
            raise ValueError("The request is no set of fields: send student, gates and the rest by their names.")
        asked = {**DEFAULTS, **{name: value for name, value in data.items() if name in DEFAULTS and value is not None}}
        teacher, student = (as_text(asked[name], f"The {name}").strip() for name in ("teacher", "student"))
        if not teacher or not student:
            raise ValueError(f"The {'student' if teacher else 'teacher'} has no name: give a Hub id or a folder.")
        if (teacher != "packaged" or student not in STUDENTS) and not settings.own_models:
            raise ValueError(
                f"Here only the packaged pair can be trained, from the student {', '.join(STUDENTS)}. "
                "Run the page on your own machine for other models."
            )
        if max(len(teacher), len(student)) > 500:
            raise ValueError("The name of a model is too long: give a Hub id such as owner/name, or a folder.")
        gates = asked["gates"]
        if not isinstance(gates, list | tuple) or not 1 <= len(gates) <= 2:
            raise ValueError("A race has one or two gates.")
        gates = tuple(_gate(gate) for gate in gates)
        if len(gates) == 2 and gate_from_text(gates[0]) == gate_from_text(gates[1]):
            raise ValueError("The two gates are the same: a race needs different ones.")
        kind, responses = asked["data"], asked["responses"]
        if kind not in ("shipped", "pasted", "uploaded"):
            raise ValueError(f"The data {kind!r:.40} is not known: choose shipped, pasted or uploaded.")
        if responses not in RESPONSES:
            raise ValueError(f"Responses from {responses!r:.40}: choose one of {', '.join(RESPONSES)}.")
        text = as_text(asked["text"], "The data") if kind != "shipped" else ""
        if len(text.encode()) > settings.max_data_bytes:
            raise ValueError(
                f"The data has {len(text.encode()) / 1e6:.1f} MB and the limit here is "
                f"{settings.max_data_bytes / 1e6:.1f} MB: send fewer lines."
            )
        if kind == "pasted":
            if not text.strip():
                raise ValueError("There are no prompts yet: paste some, one on each line.")
            if responses in ("file", "mixed"):
                raise ValueError("Pasted prompts have no responses: let the teacher or the student write them.")
        if kind == "uploaded":
            _check_lines(text)
        return cls(
            student=student,
            teacher=teacher,
            data=kind,
            text=text,
            responses=responses,
            gates=gates,
            steps=as_whole(asked["steps"], "The number of steps", 1, settings.max_training_steps),
            batch_size=as_whole(asked["batch_size"], "The batch size", 1, settings.max_training_batch, " texts"),
            learning_rate=as_real(asked["learning_rate"], "The learning rate", 1e-7, 1.0),
            lora_rank=as_whole(asked["lora_rank"], "The LoRA rank", 1, settings.max_lora_rank),
            seed=as_whole(asked["seed"], "The seed", 0, LARGEST_SEED),
        )

    def settings(self, output: str, data_file: str) -> DistillSettings:
        """The settings of the run, as the command line would have them.

        Args:
            output: the run's folder.
            data_file: where the visitor's own data lies; the shipped data has its place.
        """
        shipped = self.data == "shipped"
        writes = self.responses in ("teacher", "student")
        seen = self.steps * self.batch_size  # a run meets no more examples than these
        rank: dict[str, Any] = {} if self.student in ADAPTERS else {"lora_rank": self.lora_rank}
        cache = None  # made once for the page, and anew with each batch size: padding moves a last digit
        if shipped and not writes and self.teacher == "packaged":
            cache = str(cache_folder() / f"page-teacher-cache-{self.batch_size}")
        return DistillSettings(
            data=(PROMPTS if writes else ANSWERS) if shipped else data_file,
            output=output,
            teacher=self.teacher,
            student=self.student,
            eval_data=HELD_OUT,
            eval_limit=HELD_OUT_EXAMPLES,
            limit=SHIPPED_EXAMPLES if shipped and not writes else seen,
            max_length=LENGTH if shipped else OWN_LENGTH,
            responses=self.responses,
            max_new_tokens=64,
            gates=self.gates,
            steps=self.steps,
            warmup=max(1, self.steps // 10),
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            **rank,
            seed=self.seed,
            eval_every=max(1, -(-self.steps // 3)),
            probe_every=1 if self.steps <= 100 else self.steps // 50,
            answers=ANSWER_TOKENS,
            answer_every=max(1, self.steps // 10),
            in_turn=len(self.gates) > 1,
            cache_folder=cache,
        )


def _gate(spec: Any) -> str:
    text = as_text(spec, "The gate").strip()
    if len(text) > 120 or text.split(":")[0] not in GATES:
        raise ValueError(f"The gate {text!r:.60} is not known: choose one of {', '.join(GATES)}.")
    gate_from_text(text)
    return text


def _check_lines(text: str) -> None:
    """Raises ValueError for the first line that is no JSON object, by its number."""
    n = 0
    for number, line in enumerate(text.split("\n"), start=1):  # JSON text may hold other ends of lines
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"Line {number} is not JSON: put one object on each line.") from None
        if not isinstance(row, dict):
            raise ValueError(f'Line {number} is no JSON object: write {{"prompt": ..., "response": ...}} on each line.')
        n += 1
    if not n:
        raise ValueError("The file is empty: send one JSON object a line, with a prompt and a response.")
