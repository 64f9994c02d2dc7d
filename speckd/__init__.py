"""SpecKD: token-gated knowledge distillation, where the student proposes, the teacher verifies, and the loss listens.

Letters of the papers, used only inside formulas:
    p, q        the teacher's and the student's next-token distribution
    V_t         the weight of token t: beta where it was rejected, 1 where it was accepted
    D(p || q)   a divergence between the two, in nats
    TAR         the token acceptance rate: the mean of accepted_t

Axes, everywhere in this order:
    B batch     T time (positions of a sequence)     N response rows     V vocabulary     H hidden width
"""

import importlib
from typing import Any

from speckd._version import __version__
from speckd.controls import TIP, Margin, Matched, Position, TopKSchedule, Trim
from speckd.divergences import DIVERGENCES, forward_kl, hellinger, jsd, reverse_kl, skew_kl, skew_reverse_kl, tvd
from speckd.gates import (
    GATES,
    AdaKD,
    AdaSPEC,
    AllOpen,
    Gate,
    HellingerWeight,
    RandomTokens,
    SpecK,
    StudentEntropy,
    TeacherEntropy,
    TopK,
    gate_named,
)
from speckd.heads import Head, trunk_of
from speckd.inspection import inspect
from speckd.jobs import Progress, Stopped
from speckd.logits import gated_kd
from speckd.loss import GatedLoss, gated_loss, plain_loss
from speckd.packaged import ModelUnavailable
from speckd.pairs import Pair, load_pair
from speckd.trace import Trace

_LAZY = {  # the trainer's libraries take seconds to import, and inspecting needs none of them
    "SpecKDConfig": "speckd.training.config",
    "SpecKDTrainer": "speckd.training.trainer",
    "prepare_student": "speckd.training.prepare",
    "read_examples": "speckd.data",
    "evaluate_pair": "speckd.evaluation",
    "DecodeRecord": "speckd.decoding.record",
    "DecodingStopped": "speckd.decoding.decode",
    "decode": "speckd.decoding.decode",
    "measure_costs": "speckd.decoding.measuring",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'speckd' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


__all__ = [
    "DIVERGENCES",
    "GATES",
    "TIP",
    "AdaKD",
    "AdaSPEC",
    "AllOpen",
    "DecodeRecord",
    "DecodingStopped",
    "Gate",
    "GatedLoss",
    "Head",
    "HellingerWeight",
    "Margin",
    "Matched",
    "ModelUnavailable",
    "Pair",
    "Position",
    "Progress",
    "RandomTokens",
    "SpecK",
    "SpecKDConfig",
    "SpecKDTrainer",
    "Stopped",
    "StudentEntropy",
    "TeacherEntropy",
    "TopK",
    "TopKSchedule",
    "Trace",
    "Trim",
    "__version__",
    "decode",
    "evaluate_pair",
    "forward_kl",
    "gate_named",
    "gated_kd",
    "gated_loss",
    "hellinger",
    "inspect",
    "jsd",
    "load_pair",
    "measure_costs",
    "plain_loss",
    "prepare_student",
    "read_examples",
    "reverse_kl",
    "skew_kl",
    "skew_reverse_kl",
    "trunk_of",
    "tvd",
]
