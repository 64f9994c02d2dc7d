"""The settings of a run, each said once: name, default, group and words serve Python, the shell and the page alike."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from speckd.conversations import template_switches
from speckd.gates import GATES, TRAINING_GATES, gate_from_text
from speckd.packaged import PACKAGED, STUDENTS
from speckd.training import defaults

RESPONSES = ("file", "teacher", "student", "mixed")
GROUPS = ("models", "data", "gate and loss", "training", "what is written")  # as ``--help`` shows them


def _setting(
    group: str, default: Any, says: str, choices: Sequence[str] | None = None, kind: type | None = None
) -> Any:
    """A field with its line: ``says`` ends in ``--help`` with the default after it, unless it tells that itself."""
    return field(default=default, metadata={"group": group, "says": says, "choices": choices, "kind": kind})


def _models(default: Any, says: str, **more: Any) -> Any:
    return _setting("models", default, says, **more)


def _data(default: Any, says: str, **more: Any) -> Any:
    return _setting("data", default, says, **more)


def _loss(default: Any, says: str, **more: Any) -> Any:
    return _setting("gate and loss", default, says, **more)


def _training(default: Any, says: str, **more: Any) -> Any:
    return _setting("training", default, says, **more)


def _written(default: Any, says: str, **more: Any) -> Any:
    return _setting("what is written", default, says, **more)


@dataclass(frozen=True)
class DistillSettings:
    """Everything that decides a run. Two runs with equal settings give the same curve.

    Attributes:
        data: prompts with responses, or prompts alone where a model writes the responses: a file (JSONL, JSON, CSV,
            Parquet), a folder of them, or a data set's id on the Hub, in the forms of ``forms.py``.
        output: the run's folder.
        gates: one or several, as ``gate_from_text`` reads them; several race from the same start.
    Every other field has its line beside it, which is also what ``python -m speckd distill --help`` says.
    Raises:
        ValueError: a value makes no sense; the message says what to choose.
    """

    data: str
    output: str
    teacher: str = _models(PACKAGED, "'packaged', a Hub id or a folder")
    student: str = _models("young", f"{', '.join(STUDENTS)}, a Hub id, a model's or adapter's folder")
    revision: str | None = _models(None, "commit of a Hub teacher")
    student_revision: str | None = _models(None, "commit of a Hub student")
    device: str | None = _models(None, "cpu or cuda; a GPU where there is one")
    dtype: str | None = _models(None, "float32 or bfloat16; float32 on a CPU")
    teacher_options: str | None = _models(None, """JSON for from_pretrained, such as '{"device_map": "auto"}'""")
    student_options: str | None = _models(None, "the same for the student")
    teacher_file: str | None = _models(
        None, "the teacher's likeliest tokens, from `speckd teach`: no teacher is loaded"
    )
    teacher_server: str | None = _models(None, "address of a server that tells them, such as http://localhost:8000/v1")
    teacher_model: str | None = _models(None, "the teacher's name at that server; its first one")
    teacher_kept: int = _models(64, "tokens that the server is asked for at each place")
    lora_rank: int = _models(defaults.LORA_RANK, "of a fresh adapter")
    lora_alpha: int | None = _models(None, "of a fresh adapter (twice the rank)", kind=int)
    full: bool = _models(False, "train every weight, no adapter")

    eval_data: str | None = _data(None, "a file of held-out prompts with responses")
    eval_limit: int | None = _data(None, "at most so many of them", kind=int)
    limit: int | None = _data(None, "train on at most so many examples", kind=int)
    on_bad: Literal["stop", "skip"] = _data("stop", "what to do at a bad line", choices=("stop", "skip"))
    max_length: int = _data(defaults.MAX_LENGTH, "tokens of prompt and response")
    chat_template_kwargs: str = _data("", 'switches of the chat template, as JSON: {"enable_thinking": false}')
    turns: str = _data("all", "which of the assistant's turns are trained", choices=("all", "last"))
    responses: str = _data(
        "file",
        "who writes the responses: the file, the teacher once, the student as it trains, or a mix",
        choices=RESPONSES,
    )
    student_share: float = _data(0.5, "of a mix: share the student writes")
    greedy: bool = _data(False, "greedy answers of the teacher, not sampled")
    response_temperature: float = _data(0.8, "of the teacher's answers")
    top_p: float = _data(0.95, "of the teacher's answers")
    max_new_tokens: int = _data(defaults.MAX_NEW_TOKENS, "longest answer that a model writes")
    response_seed: int = _data(0, "of the teacher's answers")
    teacher_cache: bool = _data(True, "run the teacher at every step, and keep none of its hidden states")
    cache_folder: str | None = _data(None, "the teacher cache, elsewhere than in the run's folder")

    gates: tuple[str, ...] = _loss(
        (defaults.GATE,),
        f"one of {', '.join([*GATES, *TRAINING_GATES])}; settings follow after colons, as in topk:k=3:beta=0",
    )
    divergence: str = _loss(defaults.DIVERGENCE, "forward_kl, reverse_kl, jsd, skew_kl, skew_reverse_kl or tvd")
    mixture: float | None = _loss(None, "b of jsd (0.5) or a of the skew divergences (0.1)", kind=float)
    jsd_beta: float | None = _loss(None, "TRL's beta: 0 forward_kl, 1 reverse_kl, between them jsd", kind=float)
    ce_share: float = _loss(0.0, "share of the loss that is cross-entropy of the response's own tokens")
    router_loss: float | None = _loss(
        None, "weight of a mixture's auxiliary loss; as the student's configuration says", kind=float
    )
    reference: str = _loss("healed", "the student that AdaSPEC compares with, named as --student is")
    temperature: float = _loss(defaults.TEMPERATURE, "divides both models' logits")
    rejected: str = _loss("weight", "weigh a rejected token, or keep some", choices=("weight", "sample"))

    steps: int = _training(0, "optimizer steps; 0 counts epochs instead")
    epochs: float = _training(1.0, "passes over the data, without --steps")
    batch_size: int = _training(defaults.BATCH_SIZE, "examples of a process at once")
    accumulate: int = _training(1, "batches a step")
    learning_rate: float = _training(
        None,
        f"highest ({defaults.LEARNING_RATE:g} for an adapter, {defaults.LEARNING_RATE_FULL:g} with --full)",
        kind=float,
    )
    warmup: int = _training(defaults.WARMUP_STEPS, "steps in which the rate rises")
    schedule: str = _training(defaults.SCHEDULE, "of the rate: cosine, linear, constant_with_warmup, ...")
    weight_decay: float = _training(0.0, "of AdamW")
    clip: float = _training(1.0, "largest gradient norm")
    precision: str = _training("full", "of the trunk", choices=("full", "bf16", "fp16"))
    products: str = _training(
        "full",
        "of float32 matrices on a CPU in training: full, bf16 (faster with AMX units), auto as measured here",
        choices=("full", "bf16", "auto"),
    )
    activation_checkpointing: bool = _training(False, "less memory, more time")
    packing: bool = _training(False, "let no padded token through a trunk; the loss is the same")
    in_turn: bool = _training(False, "racers take a step in turn, not one whole run after the other; the same curves")
    seed: int = _training(0, "names the order of the examples, fresh adapters, coins and the student's own answers")

    eval_every: int = _written(0, "steps between evaluations; 0 is first and last")
    keep_best: str | None = _written(None, "end with the student whose divergence, tar, ... was best when evaluated")
    patience: int = _written(0, "evaluations without a better figure that end the training; 0 is never")
    save_every: int = _written(0, "steps between checkpoints; 0 writes none")
    keep_checkpoints: bool = _written(False, "keep every checkpoint, also at the end")
    rouge: int = _written(0, "held-out prompts answered for ROUGE-L")
    save_dtype: str = _written("float32", "what the student is written as", choices=("float32", "bfloat16", "float16"))
    report_to: tuple[str, ...] = _written((), "loggers of transformers, with commas: tensorboard, wandb")
    probe_every: int = _written(0, "steps between looks at one held-out response; 0 is never")
    answers: int = _written(0, "longest greedy answer to that response's prompt, in tokens; 0 is none")
    answer_every: int = _written(0, "steps between such answers of the student as it trains; 0 is never")
    name: str = _written("student", "of the student, in its model card")
    push_to_hub: str | None = _written(None, "also put the student on the Hub, as OWNER/NAME, with its card")
    hub_private: bool = _written(False, "make that a private repository, where it is new")

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", _default_rate(self.full))
        for item in fields(self):
            choices = item.metadata.get("choices")
            if choices and getattr(self, item.name) not in choices:
                raise ValueError(f"{item.name} is {getattr(self, item.name)!r}: choose {_either(choices)}.")
        if not self.gates:
            raise ValueError("no gate is named: choose at least one, such as topk.")
        names = [racer_folder(gate) for gate in self.gates]
        if len(set(names)) < len(names):
            raise ValueError("two of the gates are the same: a race needs different ones.")
        for gate in self.gates:
            gate_from_text(gate)
        if self.steps < 0 or (self.steps == 0 and self.epochs <= 0):
            raise ValueError("there are no steps to train: choose steps or epochs above 0.")
        for name in ("batch_size", "accumulate", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose a whole number of 1 or more.")
        template_switches(self.chat_template_kwargs)
        if self.rouge and self.eval_data is None:
            raise ValueError("ROUGE-L needs held-out prompts: give eval_data.")
        if self.probe_every < 0 or self.answers < 0 or self.answer_every < 0:
            raise ValueError("probe_every, answers and answer_every are counts: 0 for none, or more.")
        if self.answer_every and not self.answers:
            raise ValueError("answer_every needs the answers' length: give answers.")
        if (self.probe_every or self.answers) and self.eval_data is None:
            raise ValueError("The probe is a held-out response: give eval_data.")
        if self.keep_best and not (self.eval_data and self.eval_every):
            raise ValueError("keep_best needs held-out text and evaluations: give eval_data and eval_every.")
        for name in ("teacher_options", "student_options"):
            if not isinstance(options_of(getattr(self, name)), dict):
                raise ValueError(f'{name} is not a JSON object: write it as \'{{"device_map": "auto"}}\'.')
        self._check_elsewhere()

    @property
    def elsewhere(self) -> bool:
        """Whether the teacher is known by its likeliest tokens alone, from a file or a server."""
        return self.teacher_file is not None or self.teacher_server is not None

    def _check_elsewhere(self) -> None:
        if not self.elsewhere:
            return
        if self.teacher_file is not None and self.teacher_server is not None:
            raise ValueError("teacher_file and teacher_server are two teachers: give one.")
        needs = {
            "responses='teacher'": self.responses == "teacher",
            "rouge": bool(self.rouge),
            "probe_every": bool(self.probe_every),
            "answers": bool(self.answers),
            "cache_folder": self.cache_folder is not None,
        }
        for name in (name for name, asked in needs.items() if asked):
            raise ValueError(f"{name} needs the teacher itself, and of this one only likeliest tokens are known.")
        if self.teacher_file is not None and self.responses != "file":
            raise ValueError("a teacher's file holds given texts: let the file have the responses, or ask a server.")

    def racer(self, gate: str) -> "DistillSettings":
        """The settings of one racer alone."""
        if len(self.gates) == 1:
            return self
        own: dict[str, Any] = {"gates": (gate,), "output": str(Path(self.output) / racer_folder(gate))}
        if self.push_to_hub is not None:
            own["push_to_hub"] = f"{self.push_to_hub}-{racer_folder(gate)}"
        if not self.elsewhere:
            own["cache_folder"] = str(Path(self.cache_folder or Path(self.output) / "teacher-cache"))
        return replace(self, **own)


def _either(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}" if len(choices) < 4 else f"one of {', '.join(choices)}"


def options_of(text: str | None) -> Any:
    """What a JSON object says, or the text itself where it is none."""
    try:
        return json.loads(text) if text is not None else {}
    except ValueError:
        return text


def racer_folder(gate: str) -> str:
    """A folder's name for a gate: "topk:k=3" becomes "topk-k3"."""
    return gate_from_text(gate).name + "".join(f"-{part.replace('=', '')}" for part in gate.split(":")[1:])


def _default_rate(full: bool) -> float:
    return defaults.LEARNING_RATE_FULL if full else defaults.LEARNING_RATE


def command_of(settings: DistillSettings) -> str:
    """The shell command that repeats a run."""
    parts = ["python", "-m", "speckd", "distill", settings.data, "--output", settings.output]
    for item in fields(DistillSettings):
        value = getattr(settings, item.name)
        default = _default_rate(settings.full) if item.name == "learning_rate" else item.default
        if item.name in ("data", "output", "gates") or value == default:
            continue
        option = "--" + item.name.replace("_", "-")
        if item.name == "teacher_cache":
            parts.append("--no-teacher-cache")
        elif isinstance(value, tuple):
            parts += [option, ",".join(value)]
        elif isinstance(value, bool):
            parts.append(option)
        else:
            parts += [option, str(value)]
    parts += ["--compare" if len(settings.gates) > 1 else "--gate", ",".join(settings.gates)]
    return shlex.join(parts)
