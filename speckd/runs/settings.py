"""The settings of a run, and the shell command that repeats it."""

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from speckd.gates import gate_from_text
from speckd.packaged import PACKAGED

RESPONSES = ("file", "teacher", "student", "mixed")


@dataclass(frozen=True)
class DistillSettings:
    """Everything that decides a run. Two runs with equal settings give the same curve.

    Attributes:
        data: a JSONL file: prompts with responses, or prompts alone where a model writes the responses.
        output: the run's folder.
        teacher, student, revision, student_revision, device, dtype: as in ``load_pair``.
        eval_data: held-out prompts with responses; eval_limit: at most so many of them.
        responses: "file", "teacher" (made once), "student" (as it trains), "mixed" (student_share of them).
        gates: one or several, as ``gate_from_text`` reads them; several race from the same start.
        steps: optimizer steps; epochs count instead where steps is 0.
        teacher_cache: keep the teacher's hidden states; cache_folder: elsewhere than in the run's folder.
        save_dtype: what the trained student is written as: "float32", "bfloat16", "float16".
        probe_every: measure one held-out response after every so many steps (see ``probe.py``); 0 never.
        answers: longest greedy answer to the probe's prompt, by the teacher and the student before and after; 0 none.
        reference: the student that AdaSPEC compares with, named as ``student`` is; other gates need none.
        name: of the student, in its model card.
    """

    data: str
    output: str
    teacher: str = PACKAGED
    student: str = "young"
    revision: str | None = None
    student_revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    eval_data: str | None = None
    eval_limit: int | None = None
    limit: int | None = None
    on_bad: Literal["stop", "skip"] = "stop"
    max_length: int = 1024
    responses: Literal["file", "teacher", "student", "mixed"] = "file"
    student_share: float = 0.5
    greedy: bool = False
    response_temperature: float = 0.8
    top_p: float = 0.95
    max_new_tokens: int = 128
    response_seed: int = 0
    gates: tuple[str, ...] = ("topk",)
    divergence: str = "forward_kl"
    temperature: float = 1.0
    rejected: str = "weight"
    steps: int = 0
    epochs: float = 1.0
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float = 3e-3
    warmup: int = 20
    schedule: str = "cosine"
    weight_decay: float = 0.0
    clip: float = 1.0
    lora_rank: int = 64
    lora_alpha: int | None = None
    full: bool = False
    precision: str = "full"
    activation_checkpointing: bool = False
    seed: int = 0
    teacher_cache: bool = True
    cache_folder: str | None = None
    eval_every: int = 0
    save_every: int = 0
    keep_checkpoints: bool = False
    rouge: int = 0
    save_dtype: str = "float32"
    report_to: tuple[str, ...] = ()
    probe_every: int = 0
    answers: int = 0
    reference: str = "healed"
    name: str = "student"

    def __post_init__(self) -> None:
        if self.responses not in RESPONSES:
            raise ValueError(f"responses is {self.responses!r}: choose one of {', '.join(RESPONSES)}.")
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
                raise ValueError(f"{name} is {getattr(self, name)}: choose a whole number from 1 on.")
        if self.save_dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"save_dtype is {self.save_dtype!r}: choose float32, bfloat16 or float16.")
        if self.precision not in ("full", "bf16", "fp16"):
            raise ValueError(f"precision is {self.precision!r}: choose full, bf16 or fp16.")
        if self.rouge and self.eval_data is None:
            raise ValueError("ROUGE-L needs held-out prompts: give eval_data.")
        if self.probe_every < 0 or self.answers < 0:
            raise ValueError("probe_every and answers are counts: 0 for none, or more.")
        if (self.probe_every or self.answers) and self.eval_data is None:
            raise ValueError("The probe is a held-out response: give eval_data.")

    def racer(self, gate: str) -> "DistillSettings":
        """The settings of one racer alone."""
        from dataclasses import replace

        if len(self.gates) == 1:
            return self
        shared = str(Path(self.cache_folder or Path(self.output) / "teacher-cache"))
        return replace(self, gates=(gate,), output=str(Path(self.output) / racer_folder(gate)), cache_folder=shared)


def racer_folder(gate: str) -> str:
    """A folder's name for a gate: "topk:k=3" becomes "topk-k3"."""
    return gate_from_text(gate).name + "".join(f"-{part.replace('=', '')}" for part in gate.split(":")[1:])


def command_of(settings: DistillSettings) -> str:
    """The shell command that repeats a run."""
    parts = ["python", "-m", "speckd", "distill", settings.data, "--output", settings.output]
    for item in fields(DistillSettings):
        value = getattr(settings, item.name)
        if item.name in ("data", "output", "gates") or value == item.default:
            continue
        option = "--" + _OPTION.get(item.name, item.name.replace("_", "-"))
        if item.name == "teacher_cache":
            parts.append("--no-teacher-cache")
        elif item.name == "report_to":
            parts += [option, ",".join(value)]
        elif isinstance(value, bool):
            parts.append(option)
        else:
            parts += [option, str(value)]
    parts += ["--compare" if len(settings.gates) > 1 else "--gate", ",".join(settings.gates)]
    return shlex.join(parts)


_OPTION = {"on_bad": "on-bad"}
