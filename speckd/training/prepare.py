"""The student: what may be trained, fresh adapters, writing and loading."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from speckd.packaged import HUB_TEACHER, KEPT_LAYERS
from speckd.pairs import Pair, is_elsewhere, load_base
from speckd.training import defaults


def check_trainable(pair: Pair) -> None:
    """Refuse a pair that cannot be trained as it is.

    Raises:
        ValueError: no parameter of the student asks for a gradient, its head is wrapped, several adapters are active,
            or a parameter is also the teacher's.
    """
    if not any(parameter.requires_grad for parameter in pair.student.parameters()):
        raise ValueError("no parameter of the student is trainable: call prepare_student(pair) before the trainer.")
    if hasattr(pair.student.get_output_embeddings(), "base_layer"):
        raise ValueError(
            "the student's head is wrapped by an adapter, and the fused loss needs one plain matrix: leave the head "
            "out of the adapter's target_modules, or merge the adapter first."
        )
    if hasattr(pair.student, "peft_config"):
        _adapter_of(pair.student)
    if is_elsewhere(pair.teacher):
        return
    theirs = {parameter.data_ptr() for parameter in pair.teacher.parameters() if not parameter.is_meta}
    if any(parameter.data_ptr() in theirs for parameter in pair.student.parameters()):
        raise ValueError(
            "teacher and student share parameters: training would change the teacher, and FSDP cannot shard them. "
            "Load the two separately."
        )


def prepare_student(
    pair: Pair,
    *,
    lora_rank: int = defaults.LORA_RANK,
    lora_alpha: int | None = None,
    full: bool = False,
    seed: int = 0,
) -> Pair:
    """Make a pair's student trainable.

    A student that is an adapter already (packaged, or a PEFT folder) continues that adapter. Any other gets a fresh
    one on all linear layers but the head, or trains in full.

    Args:
        pair: from ``load_pair``. Its student is changed in place; load a pair of its own for each run.
        lora_rank: of a fresh adapter; at least 1.
        lora_alpha: twice the rank by default.
        full: train every weight of the student instead.
        seed: names the fresh adapter's start.
    Returns:
        The pair, with a student that trains (a PeftModel, or the model itself).
    Raises:
        ValueError: a rank below 1, ``full`` for a student that is an adapter, or an adapter that cannot train.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    student = pair.student
    if isinstance(student, PeftModel):
        if full:
            raise ValueError("the student is an adapter: it continues as one. Merge it first to train in full.")
        for settings in student.peft_config.values():
            settings.inference_mode = False
        student.set_adapter(_adapter_of(student))  # PEFT knows what each kind of adapter trains
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if not any(parameter.requires_grad for parameter in student.parameters()):
            kinds = sorted(
                {str(getattr(one.peft_type, "value", one.peft_type)) for one in student.peft_config.values()}
            )
            raise ValueError(
                f"The student's adapter is of the kind {', '.join(kinds)}, and PEFT trains none of its weights once "
                "it is loaded: choose another kind, such as LoRA, or merge it and train in full."
            )
        return pair
    if full:
        student.float().requires_grad_(True)
        return pair
    if lora_rank < 1:
        raise ValueError(f"lora_rank is {lora_rank}: choose a whole number, 1 or more.")
    settings = LoraConfig(
        r=lora_rank,
        lora_alpha=lora_alpha or 2 * lora_rank,
        target_modules="all-linear",  # PEFT leaves the head out of it
        task_type="CAUSAL_LM",
    )
    # The start must neither depend on the global generator nor change it.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that goes away in version 6
        torch.manual_seed(seed)
        if pair.teacher_id == "packaged" and pair.student_id == "raw":
            student = _fresh_packaged_student(pair, settings)
        else:
            student = get_peft_model(student, settings)
            _say_what_stays_frozen(student)
    return replace(pair, student=student.to(pair.device))


def _say_what_stays_frozen(student: Any) -> None:
    """Experts are no linear layers, so an adapter on "all-linear" does not reach them: a person should know."""
    names = [name for name, _ in student.named_parameters() if ".experts." in name]
    if names and not any("lora_" in name for name in names):
        warnings.warn(
            "the student is a mixture of experts, and the adapter reaches none of them: the experts stay as they are. "
            "Train in full (full=True) to reach them.",
            stacklevel=3,
        )


def disable_dropout(model: nn.Module) -> None:
    """Switch every dropout of a model off: with it the curve would depend on the number of processes.

    Some are modules, some are rates that a layer hands to its attention.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and ("drop" in name):
                setattr(module, name, 0.0)


def _fresh_packaged_student(pair: Pair, settings: Any) -> nn.Module:
    """The six-layer student as an adapter over the whole teacher: ``layer_replication`` does the shortening."""
    from peft import get_peft_model

    base = load_base(dtype=pair.dtype)
    base.config.name_or_path = HUB_TEACHER
    settings.layer_replication = [list(part) for part in KEPT_LAYERS]
    settings.target_modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    student = get_peft_model(base, settings)
    student.peft_config["default"].base_model_name_or_path = HUB_TEACHER
    return student


def save_student(
    student: Any,
    folder: Path,
    tokenizer: Any | None = None,
    state_dict: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a student so that plain AutoModelForCausalLM or PeftModel loads it.

    Args:
        student: a PeftModel (its adapter is written) or a whole model.
        folder: is made if needed.
        tokenizer: written beside it.
        state_dict: its weights, where they are not in the model itself (sharded training).
        dtype: what the weights are written as; as they are if None.
    """
    from peft import PeftModel, get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(student, PeftModel):
        name = _adapter_of(student)
        if dtype is not None:
            weights = get_peft_model_state_dict(student, state_dict, adapter_name=name, save_embedding_layers=False)
            student.peft_config[name].save_pretrained(str(folder))
            weights = {key: value.detach().to("cpu", dtype).contiguous() for key, value in weights.items()}
            save_file(weights, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
        else:
            # "auto" would ask the Hub whether the base's vocabulary was resized
            student.save_pretrained(
                str(folder), state_dict=state_dict, selected_adapters=[name], save_embedding_layers=False
            )
            if name != "default":  # PEFT writes it one folder down, where nobody looks for it
                for path in (folder / name).iterdir():
                    path.replace(folder / path.name)
                (folder / name).rmdir()
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card; ours is written with the figures
    else:
        use_cache, student.config.use_cache = student.config.use_cache, True
        if dtype is not None:
            state_dict = _cast(state_dict if state_dict is not None else student.state_dict(), dtype)
        student.save_pretrained(str(folder), state_dict=state_dict)
        student.config.use_cache = use_cache
        if dtype is not None:
            file = folder / "config.json"
            settings = json.loads(file.read_text(encoding="utf-8"))
            settings["dtype"] = str(dtype).removeprefix("torch.")
            file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))


def _adapter_of(student: Any) -> str:
    """The adapter that trains, whatever its name.

    Raises:
        ValueError: several do, or none: a file of one adapter would hold a part of the student.
    """
    active = list(student.active_adapters)
    if len(active) != 1:
        raise ValueError(
            f"The student has {len(active)} active adapters ({', '.join(active)}), and one is trained and written: "
            "merge the others, or join them by add_weighted_adapter."
        )
    return active[0]


def _cast(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights in another dtype; those that were one tensor stay one."""
    made: dict[tuple[int, torch.Size], Tensor] = {}
    cast = {}
    for name, value in weights.items():
        key = (value.data_ptr(), value.shape)
        if key not in made:
            made[key] = value.detach().to(dtype) if value.is_floating_point() else value
        cast[name] = made[key]
    return cast


def load_student(student: Any, folder: Path) -> None:
    """Put the weights of a checkpoint back into the student it was written from."""
    from peft import PeftModel, set_peft_model_state_dict

    if isinstance(student, PeftModel):
        adapter = load_file(str(folder / "adapter_model.safetensors"))
        set_peft_model_state_dict(student, adapter, adapter_name=_adapter_of(student))
        return
    weights: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        weights |= load_file(str(shard))
    missing, unexpected = student.load_state_dict(weights, strict=False)
    tied = set(getattr(student, "_tied_weights_keys", None) or ())
    if unexpected or set(missing) - tied:
        raise ValueError(f"{folder} does not hold this student's weights: {(unexpected or missing)[0]} does not fit.")
