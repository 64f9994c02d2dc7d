"""Finding and reading models: the packaged ones, Hub ids, local folders, and adapters over their base.

Only safetensors are read, and never code that a model brings along.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from speckd.jobs import OnProgress, Progress, silent
from speckd.packaged import (
    HUB_TEACHER,
    HUB_TEACHER_REVISION,
    INSTALL_HINT,
    KEPT_LAYERS,
    PACKAGED,
    STUDENTS,
    ModelUnavailable,
    fingerprint,
    packaged_is_here,
    packaged_teacher,
    quiet_bars,
    students_folder,
)

Model = Any  # a transformers.PreTrainedModel, or a peft.PeftModel around one


def label(name: str) -> str:
    """What to call a model: never the folders of somebody's machine."""
    path = Path(name).expanduser()
    return path.name if path.is_dir() else name


@dataclass(frozen=True)
class Source:
    """Where a teacher is read from.

    Attributes:
        folder: of the model, or of the base that an adapter lies over.
        adapter: the adapter's folder, or None.
        words: the folder with the tokenizer.
        sha256: of the weights.
    """

    folder: Path
    adapter: Path | None
    words: Path
    sha256: str

    @classmethod
    def of(cls, name: str, revision: str | None, report: OnProgress) -> "Source":
        folder = locate(name, revision, report)
        if not (folder / "adapter_config.json").exists():
            return cls(folder, None, folder, fingerprint(folder))
        base = base_of(folder, name)
        words = folder if (folder / "tokenizer_config.json").exists() else base
        both = hashlib.sha256(f"{fingerprint(base)} {fingerprint(folder)}".encode()).hexdigest()
        return cls(base, folder, words, both)

    def load(self, dtype: torch.dtype, name: str, options: Mapping[str, Any] | None) -> Model:
        if self.adapter is None:
            return named(read_model(self.folder, dtype, name, options), name)
        model = load_adapter(self.adapter, self.folder, dtype, name, options)
        # A frozen adapter costs a third more time at every layer. In quantised weights it would be rounded away.
        return model if getattr(model.get_base_model(), "is_quantized", False) else model.merge_and_unload()


def base_of(folder: Path, name: str) -> Path:
    """The folder of the base that an adapter names."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelUnavailable(f"{label(name)!r} has an adapter_config.json that cannot be read: {error}") from error
    base = config.get("base_model_name_or_path") or PACKAGED
    return locate(PACKAGED if base == HUB_TEACHER else base, config.get("revision"), silent)


def load_words(name: str) -> Any:
    """The tokenizer of a student alone: of a packaged one, a Hub id or a local folder.

    Raises:
        ModelUnavailable: its files are missing, broken or cannot be reached.
    """
    if name in STUDENTS:
        name = PACKAGED
    return read_tokenizer(Source.of(name, None, silent).words, name)


def fingerprint_of(name: str, revision: str | None = None) -> tuple[str, str]:
    """What to call a teacher, and the checksum of its weights."""
    return label(name), Source.of(name, revision, silent).sha256


# --- students of the packaged teacher -----------------------------------------------------------------------------


def packaged_student(name: str, teacher_folder: Path, dtype: torch.dtype) -> tuple[Model, str]:
    if name == "raw":
        model = keep_layers(read_model(teacher_folder, dtype, PACKAGED), KEPT_LAYERS)
        return model, fingerprint(teacher_folder)
    folder = students_folder()
    if folder is None or not (folder / name / "adapter_model.safetensors").exists():
        raise ModelUnavailable(
            f"The packaged student {name!r} is not here: install the project's wheel, which carries it, or run from a "
            "checkout, where assets/students holds it, or choose the student 'raw'."
        )
    return load_adapter(folder / name, teacher_folder, dtype, name), fingerprint(folder / name)


def keep_layers(model: Model, kept: Sequence[tuple[int, int]]) -> Model:
    """Shorten a decoder to some of its layers, in place.

    Args:
        model: a causal language model whose trunk has ``layers`` (Llama, Qwen, Mistral, Gemma...).
        kept: half-open ranges of layers, in order; the form of PEFT's ``layer_replication``.
    Returns:
        The same model, with its layers renumbered so that its key-value cache fits.
    Raises:
        ValueError: a range lies outside the model.
    """
    trunk = model.get_decoder()
    indices = [index for start, end in kept for index in range(start, end)]
    if not indices or min(indices) < 0 or max(indices) >= len(trunk.layers):
        raise ValueError(f"layers {list(kept)} do not lie within this model's {len(trunk.layers)} layers.")
    trunk.layers = nn.ModuleList(trunk.layers[index] for index in indices)
    for position, layer in enumerate(trunk.layers):
        layer.self_attn.layer_idx = position
    model.config.num_hidden_layers = len(indices)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[index] for index in indices]
    return model


def load_base(teacher: str = PACKAGED, *, dtype: torch.dtype = torch.float32, revision: str | None = None) -> Model:
    """A copy of a teacher of its own, to put a fresh adapter on: PEFT replaces layers in place.

    Raises:
        ModelUnavailable: its files are missing, broken or cannot be reached.
    """
    return read_model(locate(teacher, revision, silent), dtype, teacher)


def load_adapter(
    folder: Path, teacher_folder: Path, dtype: torch.dtype, name: str, options: Mapping[str, Any] | None = None
) -> Model:
    """A PEFT adapter over its base: the teacher's weights where it was made from them, else the base it names."""
    from peft import PeftConfig, PeftModel

    if not (folder / "adapter_model.safetensors").exists():
        raise ModelUnavailable(
            f"{label(name)!r} has no adapter_model.safetensors. Only safetensors are read here: save the adapter "
            "again with safe_serialization=True."
        )
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelUnavailable(f"{label(name)!r} has an adapter_config.json that PEFT cannot read: {error}") from error
    base = read_model(_adapter_base(config, teacher_folder), dtype, name, options)
    try:
        with warnings.catch_warnings():  # PEFT asks transformers in a way that transformers is about to drop
            warnings.simplefilter("ignore", FutureWarning)
            model = PeftModel.from_pretrained(base, str(folder))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"The adapter {label(name)!r} does not fit its base model {config.base_model_name_or_path!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    _check_adapter_depth(folder, model, name)
    return model if options else model.to(dtype)  # a dispatched or quantised base has its types already


def _adapter_base(config: Any, teacher_folder: Path) -> Path:
    base = config.base_model_name_or_path
    own_names = {HUB_TEACHER, PACKAGED, str(teacher_folder), None}
    teacher_name = json.loads((teacher_folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path")
    if base in own_names or base == teacher_name or getattr(config, "layer_replication", None):
        return teacher_folder
    return locate(base, config.revision, silent)


def _check_adapter_depth(folder: Path, model: Model, name: str) -> None:
    """An adapter for a shortened base loads without complaint onto the wrong layers of a longer one: count them.

    One that says itself on which layers it lies (a list, or a pattern of names) may leave the last ones out.
    """
    from safetensors import safe_open

    settings = model.peft_config[model.active_adapter]
    if getattr(settings, "layers_to_transform", None) is not None or isinstance(
        getattr(settings, "target_modules", None), str
    ):
        return
    with safe_open(str(folder / "adapter_model.safetensors"), framework="pt") as tensors:
        layers = {int(found[1]) for key in tensors.keys() if (found := re.search(r"\.layers\.(\d+)\.", key))}  # noqa: SIM118
    config = model.get_base_model().config
    depth = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    if layers and depth and max(layers) + 1 != depth:
        raise ValueError(
            f"The adapter {label(name)!r} was made for {max(layers) + 1} layers, its base has {depth}. "
            "An adapter of a shortened student needs layer_replication in its adapter_config.json."
        )


# --- finding and reading models -----------------------------------------------------------------------------------


def locate(name: str, revision: str | None, report: OnProgress) -> Path:
    """The local folder of a model, fetched from the Hub when it is not here."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError(
            "The name of a model is empty. Give a Hub id such as 'Qwen/Qwen2.5-0.5B-Instruct', or a folder."
        )
    if name == PACKAGED:
        if packaged_is_here():
            return packaged_teacher(report)
        return _fetch(HUB_TEACHER, HUB_TEACHER_REVISION, report, hint=f"or run `{INSTALL_HINT}`")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name:
        raise ModelUnavailable(
            f"There is no folder {name!r}. Give a folder with a model, or a Hub id such as 'owner/name'."
        )
    return _fetch(name, revision, report)


def _fetch(name: str, revision: str | None, report: OnProgress, hint: str = "or give a local folder") -> Path:
    """Fetch the parts of a Hub model that are read here. Already fetched ones need no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
    from tqdm import tqdm

    class _Reporting(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = False
            kwargs["file"] = open(os.devnull, "w")  # noqa: SIM115 - the bar's own words go nowhere, its numbers to us
            kwargs.pop("name", None)
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            report(Progress("download", int(self.n), int(self.total or 0), f"fetching {name}"))
            return shown

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, tqdm_class=_Reporting))
    except HFValidationError:
        raise ModelUnavailable(f"{name!r} is neither a folder nor a Hub id of the form 'owner/name'.") from None
    except GatedRepoError:
        raise ModelUnavailable(
            f"{name!r} is gated: accept its terms on its Hub page and log in with `hf auth login`."
        ) from None
    except RepositoryNotFoundError:
        raise ModelUnavailable(f"The Hub has no model {name!r}, or it is private: check the id, {hint}.") from None
    except (OSError, HfHubHTTPError) as error:
        raise ModelUnavailable(f"The Hub cannot be reached for {name!r}: connect to it, {hint}.") from error
    except Exception as error:  # the Hub client's transport raises errors of its own
        if type(error).__module__.startswith(("httpx", "httpcore", "requests", "huggingface_hub")):  # httpx2 too
            raise ModelUnavailable(f"The Hub cannot be reached for {name!r}: connect to it, {hint}.") from error
        raise


def named(model: Model, name: str) -> Model:
    """A model that knows its name on the Hub: an adapter on it, and its card, then name that and no cache folder."""
    if not Path(name).expanduser().is_dir():
        model.name_or_path = model.config.name_or_path = HUB_TEACHER if name == PACKAGED else name
    return model


_OURS = ("trust_remote_code", "use_safetensors", "local_files_only")  # never left to an option


def read_model(folder: Path, dtype: torch.dtype, name: str, options: Mapping[str, Any] | None = None) -> Model:
    from transformers import AutoModelForCausalLM

    options = dict(options or {})
    if refused := sorted(set(options) & set(_OURS)):
        raise ValueError(f"{refused[0]} cannot be chosen: only safetensors are read here, and no code of a model's.")
    if not (folder / "config.json").exists():
        raise ModelUnavailable(f"{label(name)!r} has no config.json: it is not the folder of a model.")
    if not any(folder.glob("*.safetensors")):
        raise ModelUnavailable(
            f"{label(name)!r} has no safetensors weights. Only safetensors are read here: convert the model with "
            "save_pretrained, or choose another revision."
        )
    try:
        with quiet_bars():
            return AutoModelForCausalLM.from_pretrained(
                folder,
                **{"dtype": dtype, **options},
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelUnavailable(
            f"{label(name)!r} cannot be read as a causal language model: {_first_line(error)}"
        ) from error
    except Exception as error:
        if type(error).__name__ == "SafetensorError":
            raise ModelUnavailable(
                f"The weights of {label(name)!r} are cut off or damaged: fetch them again."
            ) from error
        raise


def read_tokenizer(folder: Path, name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelUnavailable(f"{label(name)!r} has no tokenizer that can be read: {_first_line(error)}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
