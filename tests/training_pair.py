"""A tiny teacher and student that disagree on about half of the tokens, as training and its measures need."""

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from tests import tiny

ROWS = [{"prompt": f"Say {n}", "response": "one two three four five six"[: 4 + 3 * (n % 7)]} for n in range(26)]


def save(root: Path) -> tuple[str, str]:
    """A teacher and a disturbed copy of it as student: two folders."""
    tiny.save_model(root / "teacher", layers=3, width=16, seed=1, sharpness=10.0)
    model = AutoModelForCausalLM.from_pretrained(root / "teacher")
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "layers" in name and value.dim() == 2:
                value.mul_(20.0)  # the layers must drown the embedding, or a tied model repeats its input for ever
    model.save_pretrained(root / "teacher")
    shutil.copytree(root / "teacher", root / "student")
    torch.manual_seed(3)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * value.std() * torch.randn_like(value))
    model.save_pretrained(root / "student")
    return str(root / "teacher"), str(root / "student")
