"""Defaults of a training, in one place: SpecKDConfig and the settings of a run read them, shell and page read those."""

from speckd.data import LONGEST

GATE = "topk"
DIVERGENCE = "forward_kl"
TEMPERATURE = 1.0
LORA_RANK = 64
MAX_LENGTH = LONGEST  # tokens of prompt and response
MAX_NEW_TOKENS = 128  # of an answer that a model writes
BATCH_SIZE = 8  # examples of a process at once
LEARNING_RATE = 3e-3  # for LoRA of rank 64 on a student without most of its layers; a whole model wants less:
LEARNING_RATE_FULL = 5e-5  # transformers' own, for a student that trains in full
WARMUP_STEPS = 20
SCHEDULE = "cosine"
