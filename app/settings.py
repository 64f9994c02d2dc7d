"""Where the page runs, and what is allowed there. Every limit stands here once, with its reason.

A laptop is its owner's: limits only keep a slip of the hand from filling the memory. A Space is shared: a question must
end before the next visitor gives up. Each limit can be set with an environment variable, SPECKD_ and its name in
capitals: SPECKD_MAX_NEW_TOKENS=2048. Pairs are listed as SPECKD_PAIRS="teacher@revision+student@revision", more of
them with commas between.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class PinnedPair:
    """Two models on the Hub at stated commits: what a public page may load beside the packaged pair."""

    teacher: str
    student: str
    teacher_revision: str
    student_revision: str

    @property
    def label(self) -> str:
        return f"{self.student.split('/')[-1]} under {self.teacher.split('/')[-1]}"

    @property
    def revisions(self) -> dict[str, str]:
        """As speckd.load_pair takes them."""
        return {"revision": self.teacher_revision, "student_revision": self.student_revision}


# Apache-2.0, one family and vocabulary each, safetensors, small enough for 16 GB of memory and two cores.
SMOLLM2 = PinnedPair(
    "HuggingFaceTB/SmolLM2-360M-Instruct",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "a10cc1512eabd3dde888204e902eca88bddb4951",
    "12fd25f77366fa6b3b4b768ec3050bf629380bac",
)


@dataclass(frozen=True)
class Settings:
    """What this place allows. See ``settings_for`` for how a place is recognised.

    Attributes:
        place: "laptop", "space", or "site": a page without a server (app/site).
        zero_gpu: models run in short GPU loans (a Space with SPACES_ZERO_GPU).
        own_models: whether a visitor may name Hub ids or folders of their own.
        pairs: pairs that a visitor may choose by name all the same, at pinned revisions: nobody can swap the files.
        hosts: the names that this server answers to: its own machine's, HOST, the Space's, and those in SPECKD_HOSTS
            with commas between; "*" where it listens on all addresses, which are then names, too.
        max_prompt_characters: a question is a few lines; longer text belongs in the given response.
        max_prompt_tokens: emoji and rare scripts cost several tokens a character, and attention grows with the square.
        max_response_characters: of given text.
        max_new_tokens: of a response, written or given; the page draws 1,024 tokens within its time limits.
        max_trace_bytes: of a trace file opened on the page; one of 1,024 tokens has about 4 MB.
        max_waiting: runs that may wait for the models at once; each holds a thread. Later ones are turned away.
        max_events: calls in gradio's own queue, which only sees those whom max_waiting has not turned away yet.
        max_request_bytes: of one request's body, read into memory before anyone looks at it; a trace as JSON inside
            JSON is a little longer than its file.
        max_question_seconds: of the models' time for one question; on a shared machine nobody holds the line forever.
        max_loading_seconds: of fetching and loading a pair; the rest of the line waits meanwhile.
        max_idle_seconds: a trace kept for downloads is forgotten when nobody has asked for it for so long.
        kept_sessions: sessions of which gradio keeps its notes (0.1 MB each, nothing of a visitor's); who is not among
            them gets new ones.
        kept_pairs: pairs in memory at once; the packaged one takes about 0.7 GB in float32.
        kept_traces: traces that the server remembers for downloads, the newest first to last.
        gpu_seconds: length of one GPU loan.
        max_training_steps: of one run; a step of the packaged pair takes one to two seconds on two cores.
        max_training_batch: texts in a step; activations grow with it.
        max_lora_rank: of a fresh adapter; its weights and their optimizer states grow with it.
        max_training_seconds: a run that takes longer is stopped, and keeps what it reached.
        max_data_bytes: of prompts pasted or a file sent for training.
        kept_runs: finished trainings that the server remembers, all visitors together; each has about 20 MB on disk.
    """

    place: str = "laptop"
    zero_gpu: bool = False
    own_models: bool = True
    pairs: tuple[PinnedPair, ...] = ()
    hosts: tuple[str, ...] = LOCAL
    max_prompt_characters: int = 8_000
    max_prompt_tokens: int = 2_048
    max_response_characters: int = 20_000
    max_new_tokens: int = 1_024
    max_trace_bytes: int = 32_000_000
    max_waiting: int = 16
    max_events: int = 128
    max_request_bytes: int = 64_000_000
    max_question_seconds: int = 3_600
    max_loading_seconds: int = 3_600
    max_idle_seconds: int = 24 * 3_600
    kept_sessions: int = 50
    kept_pairs: int = 2
    kept_traces: int = 64
    gpu_seconds: int = 60
    max_training_steps: int = 1_000
    max_training_batch: int = 32
    max_lora_rank: int = 256
    max_training_seconds: int = 6 * 3_600
    max_data_bytes: int = 20_000_000
    kept_runs: int = 16

    def pair(self, teacher: str, student: str) -> PinnedPair | None:
        """The listed pair of these two names."""
        return next((pair for pair in self.pairs if (pair.teacher, pair.student) == (teacher, student)), None)


# A Space has two slow cores (or a GPU for a minute) for everybody, and 192 tokens already keep it busy for a while.
ON_A_SPACE = Settings(
    place="space",
    own_models=False,
    pairs=(SMOLLM2,),
    max_prompt_characters=2_000,
    max_prompt_tokens=512,
    max_response_characters=4_000,
    max_new_tokens=192,
    max_trace_bytes=8_000_000,
    max_request_bytes=16_000_000,
    max_question_seconds=120,
    max_loading_seconds=600,
    max_idle_seconds=1_800,
    max_training_steps=60,
    max_training_batch=8,
    max_lora_rank=64,
    max_training_seconds=600,
    max_data_bytes=500_000,
)


def settings_for(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of the place that the environment describes.

    Raises:
        ValueError: a SPECKD_ variable does not hold what its setting needs.
    """
    on_a_space = bool(environment.get("SPACE_ID"))
    settings = ON_A_SPACE if on_a_space else Settings()
    changes: dict[str, object] = {"zero_gpu": on_a_space and _is_true(environment.get("SPACES_ZERO_GPU", ""))}
    changes["hosts"] = _hosts(environment)
    for setting in fields(Settings):
        name = f"SPECKD_{setting.name.upper()}"
        value = environment.get(name)
        if value is None or setting.name in ("place", "zero_gpu", "hosts"):
            continue
        if setting.name == "pairs":
            changes["pairs"] = _read_pairs(value)
        elif setting.type in (bool, "bool"):
            changes[setting.name] = _is_true(value)
        elif value.isascii() and value.isdigit() and int(value) > 0:
            changes[setting.name] = int(value)
        else:
            raise ValueError(f"{name} is {value!r}: set it to a whole number above 0, or leave it out.")
    return replace(settings, **changes)  # type: ignore[arg-type]


def _hosts(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The names of this server, in small letters and without ports."""
    space = environment.get("SPACE_ID", "")
    named = [environment.get("HOST") or ("0.0.0.0" if space else "127.0.0.1")]
    if space:  # owner/name is served as owner-name.hf.space
        named += [environment.get("SPACE_HOST", ""), re.sub(r"[^a-z0-9]+", "-", space.lower()).strip("-") + ".hf.space"]
    named += environment.get("SPECKD_HOSTS", "").split(",")
    names = [re.sub(r":\d+$", "", name.strip().lower()).strip("[]") for name in named]
    names = ["*" if name in ("0.0.0.0", "::", "") and i == 0 else name for i, name in enumerate(names)]
    return tuple(dict.fromkeys([*LOCAL, *filter(None, names)]))


def _read_pairs(text: str) -> tuple[PinnedPair, ...]:
    pairs = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        model = r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})"
        found = re.fullmatch(rf"{model}\+{model}", item)
        if found is None:
            raise ValueError(
                f"SPECKD_PAIRS has {item!r:.120}: write owner/teacher@commit+owner/student@commit, commits in full "
                "(40 hexadecimal digits), and commas between pairs."
            )
        teacher, teacher_revision, student, student_revision = found.groups()
        pairs.append(PinnedPair(teacher, student, teacher_revision, student_revision))
    return tuple(pairs)


def place_line(settings: Settings) -> str:
    """One line for the page: where it runs, and what that means for a visitor."""
    if settings.zero_gpu:
        return f"On a Hugging Face Space that borrows a GPU, {settings.gpu_seconds} seconds at a time."
    if settings.place == "site":
        return "On a page without a server: what it shows was recorded."
    gpu = _gpu_name()
    if settings.place == "space":
        return f"On a Hugging Face Space with a GPU ({gpu})." if gpu else "On a Hugging Face Space without a GPU."
    return f"On this machine, with its GPU ({gpu})." if gpu else "On this machine, without a GPU."


def _gpu_name() -> str | None:
    import torch  # seconds to import, and only this line asks for it

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def _is_true(value: str) -> bool:
    return value.strip().lower() in ("1", "true", "yes", "on")
