"""``python -m speckd`` under FSDP2 on CPUs: what accelerate keeps for accelerators, real shards over gloo.

    accelerate launch --multi_gpu --num_processes 2 -m tests.fsdp2_on_cpu distill ... --then distill ...

accelerate sees several processes on a CPU as MULTI_CPU, and ignores an FSDP configuration there, while torch's
``fully_shard`` works with gloo. Here MULTI_CPU is called MULTI_GPU once the processes have found each other; the device
stays the CPU. Settings come as accelerate's launcher hands them on, by the environment. Commands follow one another
after ``--then``; ``NAME=VALUE`` before one is a setting from there on, and ``forget PATH...`` removes what is there.
With ``ACCELERATE_USE_FSDP=false``, which has to come first, nothing is sharded: two processes as they are.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType

SETTINGS = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def shard_on_cpus() -> None:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    found = PartialState.__init__

    def find(self: PartialState, cpu: bool = False, **named: Any) -> None:
        found(self, cpu, **named)
        if os.environ["ACCELERATE_USE_FSDP"] == "true" and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = find  # type: ignore[method-assign]


def run(words: list[str]) -> int:
    """One command, with an accelerator of its own."""
    from accelerate.state import AcceleratorState

    from speckd.cli.main import main

    AcceleratorState._reset_state()
    while "=" in words[0]:
        name, value = words.pop(0).split("=")
        os.environ[name] = value
    if words[0] != "forget":
        return main(words)
    PartialState().wait_for_everyone()
    for path in map(Path, words[1:] if PartialState().is_main_process else []):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    PartialState().wait_for_everyone()
    return 0


if __name__ == "__main__":
    shard_on_cpus()
    commands: list[list[str]] = [[]]
    for word in sys.argv[1:]:
        if word == "--then":
            commands.append([])
        else:
            commands[-1].append(word)
    sys.exit(next((failed for command in commands if (failed := run(command))), 0))
