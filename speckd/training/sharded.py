"""A student that FSDP2 shards over several processes: what is refused then, and how its whole weights are gathered.

Each process then holds a part of every weight. Trunk and loss lie in the wrapped module's forward, so training and
held-out figures need nothing; whatever runs the student outside of it, or reads its weights, does.
"""

import os
from typing import Any

import torch
from torch import Tensor, nn

NO_DEEPSPEED = (
    "DeepSpeed is not offered by SpecKDTrainer: shard by FSDP2, or put the gate into TRL's trainer, which runs under "
    "DeepSpeed (speckd.integrations.trl)."
)
_ON = ("1", "true", "yes", "on", "y", "t")


def is_asked_for(args: Any = None) -> bool:
    """Whether a training will be sharded: by ``accelerate launch``, or by ``fsdp`` of its arguments."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in _ON or bool(getattr(args, "fsdp", None))


def check(asked: dict[str, Any], args: Any = None) -> None:
    """Refuse, before anything is loaded, what a sharded training cannot do.

    Args:
        asked: name -> value of each setting that needs a whole student in every process; what is true is wanted.
        args: TrainingArguments, where there are some already.
    Raises:
        ValueError: one sentence with the name of the setting, or of a way of sharding that is not offered.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() in _ON or getattr(args, "deepspeed", None):
        raise ValueError(NO_DEEPSPEED)
    if not is_asked_for(args):
        return
    version = _version(args)
    if version != 2:
        raise ValueError(
            f"FSDP of version {version} is not offered: choose version 2 (fsdp_version: 2 in accelerate's settings)."
        )
    for name in (name for name, wanted in asked.items() if wanted):
        raise ValueError(
            f"{name} needs the whole student in each process, and FSDP shards it: leave it out, or train without FSDP."
        )


def _version(args: Any) -> int:
    config = getattr(args, "fsdp_config", None)
    if getattr(args, "fsdp", None):
        return int((config or {}).get("version", 2)) if not isinstance(config, str) else 2
    return int(os.environ.get("FSDP_VERSION", "1"))


def is_sharded(model: nn.Module) -> bool:
    """Whether a model's weights are parts of a whole. Not isinstance: importing DTensor takes seconds."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The whole weights of a sharded model, on the CPU of the first process; the others get none.

    Every process has to call it: each brings its part.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: dict[str, Any] = get_model_state_dict(model, options=options)
    return found


def all_finite(gradients: list[Tensor]) -> bool:
    """Whether every number of some gradients is finite, in this process's part and in all others'."""
    parts = [gradient.to_local() if hasattr(gradient, "to_local") else gradient for gradient in gradients]
    # One answer for all of them: asking a GPU for each would wait for it some eighty times a step.
    finite = torch.stack([part.isfinite().all() for part in parts]).all() if parts else torch.tensor(True)
    if any(part is not gradient for part, gradient in zip(parts, gradients, strict=True)):
        shared = finite.to(parts[0].device, torch.int32)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MIN)
        finite = shared
    return bool(finite)
