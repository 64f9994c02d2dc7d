"""Side branches: what lets the teacher be left early and still say something.

The head reads the last layer's states; those of an earlier layer lie elsewhere, so an exit that was never trained says
little. A branch is a small gated MLP after one layer, with a normalisation of its own, before the teacher's head cut to
the most frequent tokens. It reads one row at a time and keeps nothing: the trunk, its keys and values and what the
layers above read are untouched, whatever the branch learned.

    states that the head reads = norm_out(h + down(silu(gate) * up)),  gate, up = gate_up(norm(h))

Source: HiSpec (arXiv 2510.01336) and LayerSkip train their exits with the trunk; here the trunk stays what it is.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS = "branches.safetensors"


class Branch(nn.Module):
    """What one exit adds: at first nothing, so that it starts as the raw exit.

    Args:
        width: H. inner: width of its MLP. eps: what normalisations add to the mean square.
        norm: the teacher's last normalisation's weight, (H,), where the branch starts.
    """

    def __init__(self, width: int, inner: int, eps: float, norm: Tensor | None = None) -> None:
        super().__init__()
        self.norm, self.norm_out = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        nn.init.zeros_(self.down.weight)
        if norm is not None:
            with torch.no_grad():
                self.norm_out.weight.copy_(norm)

    def forward(self, hidden: Tensor) -> Tensor:
        """(n, H) after the layer to (n, H) that the head reads."""
        gate, up = self.gate_up(self.norm(hidden)).chunk(2, -1)
        return self.norm_out(hidden + self.down(functional.silu(gate) * up))


def save_branches(
    folder: str | os.PathLike[str], branches: Mapping[int, Branch], vocabulary: Tensor, teacher_sha256: str
) -> Path:
    """Write branches, by the layer after which each stands, in bfloat16: whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"vocabulary": vocabulary.to("cpu", torch.int32)}
    for layer, branch in branches.items():
        for name, weight in branch.state_dict().items():
            tensors[f"{layer}.{name}"] = weight.detach().to("cpu", torch.bfloat16).contiguous()
    eps = next(iter(branches.values())).norm.eps
    partial = folder / f".{WEIGHTS}.{os.getpid()}.tmp"
    save_file(tensors, str(partial), metadata={"teacher_sha256": teacher_sha256, "eps": str(eps)})
    os.replace(partial, folder / WEIGHTS)
    return folder / WEIGHTS


def shipped_branches() -> Path | None:
    """The file of the packaged teacher's branches: assets/drafts/exits beside the package, or under this folder."""
    for root in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (root / "assets" / "drafts" / "exits" / WEIGHTS).is_file():
            return root / "assets" / "drafts" / "exits" / WEIGHTS
    return None


def read_branches(file: Path, teacher_sha256: str | None) -> tuple[dict[int, Branch], Tensor] | None:
    """Branches by layer and their vocabulary, (V',) ascending; None where they are another teacher's.

    Raises:
        ValueError: the file is cut off or damaged.
    """
    try:
        with safe_open(str(file), framework="pt") as opened:
            about: dict[str, Any] = opened.metadata()
            if about["teacher_sha256"] != teacher_sha256:
                return None
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        vocabulary, branches = tensors.pop("vocabulary").long(), {}
        for layer in sorted({int(name.partition(".")[0]) for name in tensors}):
            weights = {n.partition(".")[2]: w.float() for n, w in tensors.items() if n.startswith(f"{layer}.")}
            width, inner = weights["down.weight"].shape
            branches[layer] = Branch(width, inner, float(about["eps"]))
            branches[layer].load_state_dict(weights)
            branches[layer].requires_grad_(False).eval()
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"The exits in {file.parent.name!r} are cut off or damaged: make them again.") from error
    return branches, vocabulary
