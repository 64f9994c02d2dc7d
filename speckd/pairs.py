"""A teacher, a student and their tokenizer, checked that they fit. Where models are read from: ``sources.py``."""

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from speckd.heads import check_halves
from speckd.jobs import OnProgress, Progress, silent
from speckd.packaged import PACKAGED, STUDENTS, fingerprint
from speckd.sources import (
    Model,
    Source,
    base_of,
    fingerprint_of,
    keep_layers,
    label,
    load_adapter,
    load_base,
    load_words,
    locate,
    named,
    packaged_student,
    read_model,
    read_tokenizer,
)

__all__ = [
    "Model",
    "Pair",
    "check_ids",
    "choose_device",
    "fingerprint_of",
    "is_elsewhere",
    "keep_layers",
    "left_out",
    "load_base",
    "load_model",
    "load_pair",
    "load_words",
    "settle",
    "shared_vocabulary",
    "weights_sha256",
]


@dataclass(frozen=True, eq=False)
class Pair:
    """A teacher and a student that share a vocabulary.

    Attributes:
        teacher, student: causal language models in evaluation mode, on one device; or a teacher that is elsewhere (a
            ``TeacherFile`` or ``TeacherServer``), known by its likeliest tokens alone.
        tokenizer: the tokenizer of both; its chat template is the student's where the student has one.
        device, dtype: where the models are, and the type of their weights.
        teacher_id, student_id: "packaged", "healed", a Hub id or a folder's name, as a person would say it.
        teacher_sha256, student_sha256: of the weights; a student made from the teacher alone has the teacher's.
        vocabulary_size: rows of the vocabulary that both have; padded rows beyond them are cut before the softmax.
    """

    teacher: Model
    student: Model
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    teacher_id: str
    student_id: str
    teacher_sha256: str
    student_sha256: str
    vocabulary_size: int

    @classmethod
    def of(cls, teacher: Model, student: Model, tokenizer: Any) -> "Pair":
        """A pair of models that are loaded already; neither is moved, and the student stays as it is.

        Args:
            teacher: a causal language model (plain, dispatched, quantised, or a PeftModel), or a teacher elsewhere.
            student: a causal language model or PeftModel.
            tokenizer: of both.
        Raises:
            ValueError: the two do not share the tokenizer's vocabulary, or one is no causal language model.
        """
        if not hasattr(tokenizer, "get_added_vocab"):
            raise ValueError(f"tokenizer is a {type(tokenizer).__name__}: give the tokenizer of both models.")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        size = shared_vocabulary(teacher, student, tokenizer)
        parameter = next(student.parameters())
        elsewhere = is_elsewhere(teacher)
        if not elsewhere:
            settle(teacher, None, "teacher")
        check_halves(student, "student")
        return cls(
            teacher=teacher,
            student=student,
            tokenizer=tokenizer,
            device=parameter.device,
            dtype=parameter.dtype,
            teacher_id=teacher.teacher_id if elsewhere else _name_of(teacher),
            student_id=_name_of(student),
            teacher_sha256=teacher.teacher_sha256 if elsewhere else weights_sha256(teacher),
            student_sha256=weights_sha256(student),
            vocabulary_size=size,
        )


def is_elsewhere(teacher: Any) -> bool:
    """Whether a teacher is no model here, but known by its likeliest tokens: a file or a server."""
    return hasattr(teacher, "top_tokens")


def settle(model: Model, device: torch.device | None, what: str = "model") -> Model:
    """A frozen model in evaluation mode, on a device where one is given and the model may be moved.

    Before the move its halves are checked: on ZeroGPU there is no GPU yet when a pair is loaded.

    A model that was dispatched (``device_map``) or quantised lies where it was loaded, and may not be.
    """
    check_halves(model, what)
    if device is not None and not getattr(model, "hf_device_map", None) and not getattr(model, "is_quantized", False):
        model.to(device)
    return model.eval().requires_grad_(False)


def _name_of(model: Model) -> str:
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    return label(name) if not os.path.isabs(name) else Path(name).name


def weights_sha256(model: Model) -> str:
    """A checksum that tells models in memory apart: of each weight's name, shape and 1,024 of its numbers.

    Not that of the files they may have come from: reading every number of a large model would take minutes.
    """
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        flat = value.detach().flatten()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        if flat.is_meta:  # offloaded
            continue
        some = flat[:: max(1, len(flat) // 1024)][:1024]
        digest.update(some.to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()


def load_pair(
    teacher: Any = PACKAGED,
    student: str = "healed",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    student_revision: str | None = None,
    merge: bool = False,
    teacher_options: Mapping[str, Any] | None = None,
    student_options: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> Pair:
    """Load a teacher and a student and check that they fit.

    Args:
        teacher: "packaged", a Hub id, or a local folder with a model or with a PEFT adapter over its base; or a
            ``TeacherFile`` or ``TeacherServer``, and no teacher is loaded.
        student: "healed", "gated", "half-way", "young" or "raw" (the packaged students, with the packaged teacher
            only); a Hub id; a local folder with a model; or a local folder with a PEFT adapter over the teacher.
        device: by default the GPU where there is one, else the CPU.
        dtype: by default bfloat16 on a GPU and float32 on a CPU, where bfloat16 is far slower.
        revision, student_revision: commits of Hub models.
        merge: put the weights of an adapter into the student's own matrices. It then runs a third faster and gives the
            same answers up to rounding, but no longer continues as an adapter: leave it False to train.
        teacher_options, student_options: what else ``from_pretrained`` is to be told, such as ``device_map``,
            ``quantization_config`` or ``attn_implementation``. A model with a ``device_map`` or quantised weights stays
            where that put it.
        on_progress: called with a Progress as stages advance.
    Returns:
        The pair, both models in evaluation mode.
    Raises:
        ModelUnavailable: files are missing, broken or cannot be reached.
        ValueError: the two do not share a vocabulary, or an argument makes no sense.
    """
    # Long: one way for every kind of pair, in the order in which its parts are found.
    report = on_progress or silent
    where, precision = choose_device(device, dtype)
    if is_elsewhere(teacher):
        source, teacher_id = None, teacher.teacher_id
        teacher_model, teacher_sha256 = teacher, teacher.teacher_sha256
    else:
        source, teacher_id = Source.of(teacher, revision, report), label(teacher)
        teacher_model, teacher_sha256 = source.load(precision, teacher, teacher_options), source.sha256
    report(Progress("load", 1, 3, "teacher loaded"))

    n_shared = 2**31
    if student in STUDENTS:
        if source is not None and teacher != PACKAGED:
            raise ValueError(
                f"The student {student!r} belongs to the packaged teacher. For the teacher {teacher!r} "
                "give a student as Hub id or folder."
            )
        base = source.folder if source is not None else locate(PACKAGED, None, report)
        student_model, student_sha256 = packaged_student(student, base, precision)
        tokenizer = read_tokenizer(base, PACKAGED)
    else:
        student_folder = locate(student, student_revision, report)
        if (student_folder / "adapter_config.json").exists():
            base = source.folder if source is not None else base_of(student_folder, student)
            student_model = load_adapter(student_folder, base, precision, student, student_options)
            tokenizer = read_tokenizer(source.words if source is not None else base, student)
        else:
            student_model = named(read_model(student_folder, precision, student, student_options), student)
            tokenizer = read_tokenizer(student_folder, student)
            if source is not None:
                tokenizer, n_shared = _shared_tokenizer(read_tokenizer(source.words, teacher), tokenizer)
        student_sha256 = fingerprint(student_folder)
    if merge and hasattr(student_model, "merge_and_unload"):
        student_model = student_model.merge_and_unload()
    report(Progress("load", 2, 3, "student loaded"))

    vocabulary_size = min(n_shared, shared_vocabulary(teacher_model, student_model, tokenizer))
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= vocabulary_size:
        tokenizer.pad_token = tokenizer.eos_token  # a [PAD] that only one model has has no row in the other
    for model, what in ((teacher_model, "teacher"), (student_model, "student")):
        if not is_elsewhere(model):
            settle(model, where, what)
    missing = left_out(tokenizer, vocabulary_size)
    words = ", ".join(f"{index} {token!r}" for index, token in list(missing.items())[:4])
    more = ", ..." if len(missing) > 4 else ""
    report(Progress("load", 3, 3, f"pair ready; left out: {words}{more}" if missing else "pair ready"))
    return Pair(
        teacher=teacher_model,
        student=student_model,
        tokenizer=tokenizer,
        device=where,
        dtype=precision,
        teacher_id=teacher_id,
        student_id=label(student),
        teacher_sha256=teacher_sha256,
        student_sha256=student_sha256,
        vocabulary_size=vocabulary_size,
    )


def load_model(
    name: str, *, device: torch.device | str | None = None, revision: str | None = None
) -> tuple[Model, Any]:
    """One model, frozen, with its tokenizer: "packaged", a Hub id or a local folder.

    Raises:
        ModelUnavailable: its files are missing, broken or cannot be reached.
    """
    where, precision = choose_device(device)
    source = Source.of(name, revision, silent)
    return settle(source.load(precision, name, None), where), read_tokenizer(source.words, name)


def choose_device(
    device: str | torch.device | None = None, dtype: torch.dtype | str | None = None
) -> tuple[torch.device, torch.dtype]:
    """The device and the precision: what is asked for, else a GPU with bfloat16, else the CPU with float32.

    Raises:
        ValueError: a device or dtype that does not exist here.
    """
    try:
        where = torch.device(device) if device is not None else torch.device("cuda" if _has_gpu() else "cpu")
    except RuntimeError:
        raise ValueError(f"{device!r} is not a device. Choose 'cpu', 'cuda' or 'cuda:0'.") from None
    if where.type == "cuda" and not _has_gpu():
        raise ValueError("device is 'cuda', but no CUDA GPU is visible here. Leave it out to run on the CPU.")
    if isinstance(dtype, str):
        named = getattr(torch, dtype, None)
        if not isinstance(named, torch.dtype):
            raise ValueError(f"{dtype!r} is not a dtype. Choose 'float32' or 'bfloat16'.")
        dtype = named
    if dtype is None:
        dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    if not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}: models need a floating-point type, such as float32 or bfloat16.")
    return where, dtype


def _has_gpu() -> bool:
    return torch.cuda.is_available()


def _shared_tokenizer(teacher_tokenizer: Any, student_tokenizer: Any) -> tuple[Any, int]:
    """The tokenizer of both, and below which id the two agree.

    It is the student's, with the teacher's chat template where the student has none. Added tokens that only one of the
    two knows (a fine-tune's [PAD], a younger model's tool marks) are left out, with every id behind the first of them.

    Raises:
        ValueError: the two differ in more than added tokens.
    """
    teacher_vocabulary, student_vocabulary = teacher_tokenizer.get_vocab(), student_tokenizer.get_vocab()
    n_shared = 2**31  # padded rows of both heads may count too
    differing = dict(teacher_vocabulary.items() ^ student_vocabulary.items())
    if differing:
        added = teacher_tokenizer.get_added_vocab() | student_tokenizer.get_added_vocab()
        if not set(differing) <= set(added):
            sizes = f"student vocabulary {len(student_vocabulary)}, teacher vocabulary {len(teacher_vocabulary)}"
            common = sum(teacher_vocabulary.get(token) == index for token, index in student_vocabulary.items())
            raise ValueError(
                f"{sizes} ({common} tokens in common): a per-token divergence needs one shared vocabulary. "
                "Choose two models of one family."
            )
        places = (words.get(token) for token in differing for words in (teacher_vocabulary, student_vocabulary))
        n_shared = min(place for place in places if place is not None)
    if student_tokenizer.chat_template is None:
        student_tokenizer.chat_template = teacher_tokenizer.chat_template
    cut = [words(_SAMPLE, add_special_tokens=False)["input_ids"] for words in (teacher_tokenizer, student_tokenizer)]
    if cut[0] != cut[1]:
        warnings.warn(
            "the two tokenizers have one vocabulary, and cut text into tokens differently (their normalisers or merges "
            "are unlike): the student's is used for both, so the teacher reads text as it has not learnt it.",
            stacklevel=3,
        )
    return student_tokenizer, n_shared


_SAMPLE = "Why don't  WE  stop at 12,345.67 naïve Ⅷ ﬁgs?\n\tx = {1: 'é'}\n\nНебо 天空は青い السماء आसमान ท้องฟ้า 👩‍👧"


def shared_vocabulary(teacher: Model, student: Model, tokenizer: Any) -> int:
    """How many rows of the vocabulary both heads have.

    Heads are often padded beyond the tokenizer, and differently within a family (Qwen2.5: 151,936 rows and 152,064 for
    151,665 tokens). Rows that only one of them has can never be proposed to the other. An added token may lie beyond
    the rows (Gemma 3's image token): a text that holds it is refused when it comes.

    Raises:
        ValueError: a head has fewer rows than the tokenizer has tokens, added ones not counted; or a model has none.
    """
    if is_elsewhere(teacher):
        teacher_rows = teacher.vocabulary_size
    else:
        teacher_rows = _rows_of_head(teacher, "teacher")
    student_rows = _rows_of_head(student, "student")
    added = tokenizer.get_added_vocab()
    n_tokens = max((index for token, index in tokenizer.get_vocab().items() if token not in added), default=-1) + 1
    if min(teacher_rows, student_rows) < n_tokens:
        raise ValueError(
            f"student vocabulary {student_rows}, teacher vocabulary {teacher_rows}, tokenizer {n_tokens}: a per-token "
            "divergence needs one shared vocabulary. Choose two models of one family."
        )
    return min(teacher_rows, student_rows)


def _rows_of_head(model: Model, what: str) -> int:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    weight = getattr(head, "weight", None)
    if not isinstance(weight, torch.Tensor):
        raise ValueError(
            f"The {what} is a {type(model).__name__}, which has no head over a vocabulary: give a causal language "
            "model as AutoModelForCausalLM loads it, unwrapped."
        )
    return weight.shape[0]


def left_out(tokenizer: Any, vocabulary_size: int) -> dict[int, str]:
    """The tokens that a pair cannot read, since only one of its models has them: id -> token."""
    found = {index: token for token, index in tokenizer.get_vocab().items() if index >= vocabulary_size}
    return dict(sorted(found.items()))


def check_ids(pair: Pair, ids: Sequence[int], what: str) -> None:
    """Refuse a text that holds a token which only one of the two models has.

    Raises:
        ValueError: with the token.
    """
    if ids and max(ids) >= pair.vocabulary_size:
        token = next(token for token in ids if token >= pair.vocabulary_size)
        word = pair.tokenizer.convert_ids_to_tokens(token)
        raise ValueError(
            f"{what} holds {word!r} (id {token}), which is beyond the {pair.vocabulary_size:,} tokens that teacher and "
            "student share. Take it out of the text or of the chat template."
        )
