"""Training side branches of the teacher's exits: what ``python -m speckd distill DATA --draft exits:layers=4+8`` runs.

The teacher reads each text once; its states after the exits' layers and its last ones are kept in memory. A branch
then learns the teacher's own distribution, over the tokens that exits may propose, from single rows in random order:
it looks at one row at a time, so nothing else is needed, and nothing of the trunk changes.
"""

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speckd.conversations import stop_token_ids
from speckd.data import Example, read_examples
from speckd.decoding.branches import Branch, save_branches
from speckd.decoding.eagle import cut_head
from speckd.divergences import forward_kl
from speckd.heads import Head, trunk_of
from speckd.jobs import OnProgress, Progress, ShouldStop, Stopped
from speckd.packaged import PACKAGED
from speckd.pairs import Pair, load_pair
from speckd.training import defaults
from speckd.training.draft_data import most_frequent


@dataclass(frozen=True)
class ExitSettings:
    """Everything that decides the branches.

    Attributes:
        data, eval_data: JSONL of prompts with responses; limit, eval_limit: at most so many; max_length: their tokens.
        output: the folder they are written to. teacher, revision, device: as in ``load_pair``.
        layers: the exits. inner: width of a branch's MLP. vocabulary: the most frequent response tokens.
        steps, rows, learning_rate, warmup: of AdamW over batches of so many rows, on a cosine.
        precision: "full", or "bf16" for products in bfloat16.
    """

    data: str
    output: str
    eval_data: str | None = None
    limit: int | None = None
    eval_limit: int | None = None
    max_length: int = defaults.MAX_LENGTH
    teacher: str = PACKAGED
    revision: str | None = None
    device: str | None = None
    layers: tuple[int, ...] = (4, 8)
    inner: int = 576
    vocabulary: int = 8192
    steps: int = 150
    rows: int = 2048
    learning_rate: float = 3e-3
    warmup: int = 10
    precision: str = "full"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.layers or min(self.layers) < 1 or self.inner < 1 or self.vocabulary < 2 or self.steps < 1:
            raise ValueError("exits need layers from 1, an inner width and steps from 1, a vocabulary from 2.")


def parse_exits(text: str) -> dict[str, Any]:
    """The settings in a name: "exits:layers=4+8:inner=576:vocab=8192".

    Raises:
        ValueError: a knob that there is not, or no number.
    """
    found: dict[str, Any] = {}
    for knob in text.split(":")[1:]:
        key, _, value = knob.partition("=")
        try:
            if key == "layers":
                found["layers"] = tuple(int(layer) for layer in value.split("+"))
            elif key in ("inner", "vocab"):
                found["vocabulary" if key == "vocab" else key] = int(value)
            else:
                raise ValueError(f"exits have no {key!r}; their settings are layers, inner, vocab.")
        except ValueError as error:
            raise (
                error
                if "settings are" in str(error)
                else ValueError(f"{key} of the exits is {value!r}: write whole numbers, several layers as in 4+8.")
            ) from None
    return found


@dataclass(frozen=True, eq=False)
class Rows:
    """Response rows of many texts: states after each exit's layer and the last ones, (N, H) float16 each."""

    exits: dict[int, Tensor]
    last: Tensor

    def __len__(self) -> int:
        return len(self.last)


@torch.no_grad()
def read_rows(
    pair: Pair,
    examples: Sequence[Example],
    layers: Sequence[int],
    precision: torch.dtype | None,
    report: OnProgress,
    stopping: ShouldStop = lambda: False,
    batch_size: int = 16,
) -> Rows:
    """Run the teacher over texts and keep the states that predict response tokens.

    Raises:
        ValueError: an exit lies beyond the teacher's depth.
        Stopped: ``stopping`` said so.
    """
    trunk = trunk_of(pair.teacher)
    if max(layers) >= trunk.config.num_hidden_layers:
        raise ValueError(
            f"an exit after layer {max(layers)} is beyond this teacher's depth: choose one below "
            f"{trunk.config.num_hidden_layers}."
        )
    order = sorted(examples, key=lambda example: len(example.prompt_ids) + len(example.response_ids))
    kept: dict[int, list[Tensor]] = {layer: [] for layer in [*layers, -1]}
    for at in range(0, len(order), batch_size):
        if stopping():
            raise Stopped
        some = order[at : at + batch_size]
        texts = [torch.tensor(one.prompt_ids + one.response_ids) for one in some]
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True).to(pair.device)
        rows = torch.zeros(ids.shape, dtype=torch.bool)
        for row, one in enumerate(some):  # right padding: attention looks back alone, so no mask is needed
            rows[row, len(one.prompt_ids) - 1 : len(one.prompt_ids) + len(one.response_ids) - 1] = True
        rows = rows.to(pair.device)
        with torch.autocast(pair.device.type, precision, enabled=precision is not None):
            states = trunk(input_ids=ids, use_cache=False, output_hidden_states=True)
        for layer in layers:
            kept[layer].append(states.hidden_states[layer][rows].half())
        kept[-1].append(states.last_hidden_state[rows].half())
        report(Progress("teacher", min(at + batch_size, len(order)), len(order), "the teacher's states"))
    return Rows({layer: torch.cat(kept[layer]) for layer in layers}, torch.cat(kept[-1]))


def train_branches(
    settings: ExitSettings, head: Head, norm: Tensor, eps: float, rows: Rows, report: OnProgress
) -> dict[int, Branch]:
    """Each exit's branch, trained on the same batches by the mean forward KL to the teacher.

    Args:
        head: the teacher's, cut to the vocabulary. norm, eps: of the teacher's last normalisation.
    """
    torch.manual_seed(settings.seed)
    device, width = rows.last.device, rows.last.shape[1]
    branches = {layer: Branch(width, settings.inner, eps, norm).to(device) for layer in settings.layers}
    weights = [weight for branch in branches.values() for weight in branch.parameters()]
    optimizer = torch.optim.AdamW(weights, settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    precision = torch.bfloat16 if settings.precision == "bf16" else None
    generator = torch.Generator().manual_seed(settings.seed)
    for step in range(settings.steps):
        warm = min(1.0, (step + 1) / settings.warmup)
        falls = 0.525 + 0.475 * torch.cos(torch.tensor(torch.pi * step / settings.steps)).item()
        optimizer.param_groups[0]["lr"] = settings.learning_rate * warm * falls
        picked = torch.randint(len(rows), (settings.rows,), generator=generator).to(device)
        with torch.autocast(device.type, precision, enabled=precision is not None):
            with torch.no_grad():
                teacher = torch.log_softmax(head.logits(rows.last[picked].float()).float(), -1)
            losses = [
                forward_kl(
                    teacher, torch.log_softmax(head.logits(branch(rows.exits[layer][picked].float())).float(), -1)
                )
                for layer, branch in branches.items()
            ]
        loss = torch.stack([values.mean() for values in losses]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        told = ", ".join(f"{values.mean():.3f}" for values in losses)
        report(Progress("train", step + 1, settings.steps, f"nats to the teacher by exit: {told}"))
    return branches


@torch.no_grad()
def agreement(branches: dict[int, Branch], head: Head, vocabulary: Tensor, whole: Head, rows: Rows) -> dict[str, Any]:
    """Of each exit: the share of rows whose best token is the teacher's, and the mean of sum min(p, q)."""
    figures: dict[str, Any] = {"rows": len(rows)}
    sums = {layer: torch.zeros(3, dtype=torch.float64) for layer in branches}
    for some in torch.arange(len(rows)).split(2048):
        logits = whole.logits(rows.last[some].float())
        best, p = logits.argmax(-1), torch.softmax(logits.float(), -1)[:, vocabulary]
        for layer, branch in branches.items():
            hidden = rows.exits[layer][some].float()
            q = torch.softmax(head.logits(branch(hidden)), -1)
            sums[layer] += torch.stack(
                [
                    (vocabulary[q.argmax(-1)] == best).double().sum(),
                    torch.minimum(p, q).double().sum(),
                    torch.tensor(float(len(some)), dtype=torch.float64),
                ]
            )
    for layer, (right, overlap, count) in sums.items():
        figures[str(layer)] = {"agreement": float(right / count), "acceptance": float(overlap / count)}
    return figures


def distill_exits(settings: ExitSettings, on_progress: OnProgress | None = None) -> dict[str, Any]:
    """Train branches and write them.

    Returns:
        What stands in exits.json: settings, the command, seconds, held-out figures.
    Raises:
        ValueError, OSError: one sentence that says what to do.
    """
    report = on_progress or (lambda _: None)
    output = Path(settings.output).expanduser()
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty: choose another folder.")
    pair = load_pair(settings.teacher, settings.teacher, device=settings.device, revision=settings.revision,
                     student_revision=settings.revision, on_progress=report)  # fmt: skip
    more: dict[str, Any] = {"max_length": settings.max_length}
    train = read_examples(settings.data, pair.tokenizer, limit=settings.limit, **more).examples
    held = (
        read_examples(settings.eval_data, pair.tokenizer, limit=settings.eval_limit, **more).examples
        if settings.eval_data
        else []
    )
    started = time.monotonic()
    vocabulary = most_frequent(train, stop_token_ids(pair.teacher, pair.tokenizer), settings.vocabulary)
    vocabulary = vocabulary.to(pair.device)
    precision = torch.bfloat16 if settings.precision == "bf16" else None
    whole = Head.of(pair.teacher)
    head, last_norm = cut_head(whole, vocabulary), trunk_of(pair.teacher).norm
    rows = read_rows(pair, train, settings.layers, precision, report)
    branches = train_branches(settings, head, last_norm.weight, last_norm.variance_epsilon, rows, report)
    held_rows = read_rows(pair, held, settings.layers, None, report) if held else None
    facts = {
        "teacher": pair.teacher_id,
        "teacher_sha256": pair.teacher_sha256,
        "command": command_of(settings),
        "settings": asdict(settings),
        "n_texts": len(train),
        "n_response_tokens": len(rows),
        "seconds": round(time.monotonic() - started, 1),
        "held_out": agreement(branches, head, vocabulary, whole, held_rows) if held_rows is not None else None,
    }
    save_branches(output, branches, vocabulary, pair.teacher_sha256)
    (output / "exits.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def command_of(settings: ExitSettings) -> str:
    """The shell command that repeats a run."""
    name = f"exits:layers={'+'.join(map(str, settings.layers))}:inner={settings.inner}:vocab={settings.vocabulary}"
    parts = ["python", "-m", "speckd", "distill", settings.data, "--output", settings.output, "--draft", name]
    plain = ExitSettings("", "")
    for knob in ("eval_data", "limit", "eval_limit", "max_length", "steps", "learning_rate", "precision", "seed"):
        if getattr(settings, knob) != getattr(plain, knob):
            parts += ["--" + knob.replace("_", "-"), str(getattr(settings, knob))]
    return shlex.join(parts)
