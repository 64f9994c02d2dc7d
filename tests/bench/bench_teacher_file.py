"""What it costs to know the teacher by its K likeliest tokens only: of the loss, of its gradient, in bytes and seconds.

    python tests/bench/bench_teacher_file.py [--kept 8,64,512] [--examples 16] [--steps 40]

The packaged teacher with its young and its healed student, held-out answers of the teacher, float32, forward KL, Top-k
with k = 5. Columns:

    mass        mean share of the teacher's probability that the K tokens hold
    D seen      the divergence over K + 1 outcomes, as a share of the exact one
    cosine      between the two losses' gradients with respect to the student's hidden states, all rows as one vector
    B/token     bytes a response token, in the file; last row: of the hidden-state cache
    s/step      CPU seconds of one loss with its gradient, one thread, medians of turns taken by turns

With --steps the young student is then trained so many steps, by the exact loss with the hidden-state cache and by each
file, on the same batches of 2 texts, and its held-out divergence from the teacher itself is measured.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import speckd
from speckd.data import Example, read_examples
from speckd.evaluation import evaluate_pair
from speckd.heads import Head
from speckd.top_tokens import TopTokens, top_tokens_loss
from speckd.training.config import SpecKDConfig
from speckd.training.prepare import prepare_student
from speckd.training.teacher_cache import fill_cache, teacher_rows, tokenizer_sha256
from speckd.training.teacher_file import LocalTeacher, write_teacher_file
from speckd.training.trainer import SpecKDTrainer

TRAINING = Path(__file__).parents[2] / "assets" / "responses" / "train.jsonl"
ANSWERS = Path(__file__).parents[2] / "assets" / "responses" / "heldout-sampled.jsonl"
GATE = speckd.TopK(k=5, beta=0.01)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kept", default="8,64,512")
    options.add_argument("--examples", type=int, default=16)
    options.add_argument("--turns", type=int, default=5)
    options.add_argument("--steps", type=int, default=0)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    kept = [int(text) for text in chosen.kept.split(",")]
    for student in ("young", "healed") if chosen.examples else ():  # 0 trains alone
        pair = speckd.load_pair(student=student, device="cpu")
        examples = read_examples(ANSWERS, pair.tokenizer, limit=chosen.examples).examples
        measure(pair, student, examples, kept, chosen.turns)
    if chosen.steps:
        train(kept, chosen.steps)


@torch.no_grad()
def hidden_of(model: Any, examples: list[Example]) -> torch.Tensor:
    return torch.cat(
        [torch.cat(teacher_rows(model, examples[start : start + 4])) for start in range(0, len(examples), 4)]
    )


def measure(pair: speckd.Pair, name: str, examples: list[Example], kept: list[int], turns: int) -> None:
    theirs, own = hidden_of(pair.teacher, examples), hidden_of(pair.student, examples)
    teacher_head, student_head = Head.of(pair.teacher), Head.of(pair.student)

    def exact() -> tuple[Any, torch.Tensor]:
        leaf = own.clone().requires_grad_()
        found = speckd.gated_loss(leaf, student_head, theirs, teacher_head, GATE)
        found.loss.backward()
        return found, leaf.grad

    def by_top(top: TopTokens) -> Callable[[], tuple[Any, torch.Tensor]]:
        def step() -> tuple[Any, torch.Tensor]:
            leaf = own.clone().requires_grad_()
            found = top_tokens_loss(leaf, student_head, top, GATE)
            found.loss.backward()
            return found, leaf.grad

        return step

    with tempfile.TemporaryDirectory() as folder:
        checksum = tokenizer_sha256(pair.tokenizer)
        fill_cache(f"{folder}/cache", pair.teacher, pair.tokenizer, examples, pair.teacher_sha256)
        cache_bytes = sum(path.stat().st_size for path in Path(folder, "cache").iterdir()) / len(own)
        steps: dict[Any, Callable[[], Any]] = {"exact": exact}
        sizes: dict[Any, float] = {"exact": cache_bytes}
        for n_kept in kept:
            path = Path(folder, f"{n_kept}.teach")
            source = LocalTeacher(pair.teacher, "packaged", pair.teacher_sha256, n_kept=n_kept)
            file = write_teacher_file(path, source, examples, checksum, batch_size=4)
            sizes[n_kept] = path.stat().st_size / len(own)
            steps[n_kept] = by_top(TopTokens.join(file.top_tokens(examples)))
            masses = f"{file.mean_mass:.4f}"
            print(f"{name}: K {n_kept}: mass {masses} on average, {file.least_mass:.4f} at least")
        seconds: dict[Any, list[float]] = {step: [] for step in steps}
        found: dict[Any, Any] = {}
        for turn in range(turns + 1):
            for step, run in steps.items():
                started = time.process_time()
                found[step] = run()
                if turn:
                    seconds[step].append(time.process_time() - started)
    reference, gradient = found["exact"]
    print(f"\n{name} student: {len(own)} response tokens, exact divergence {reference.divergence.mean():.4f} nats")
    print(f"{'K':>6} {'D seen':>8} {'cosine':>8} {'norm':>7} {'same verdicts':>14} {'B/token':>8} {'s/step':>8}")
    for step, (loss, own_gradient) in found.items():
        seen = (loss.divergence.mean() / reference.divergence.mean()).item()
        cosine = torch.nn.functional.cosine_similarity(own_gradient.flatten(), gradient.flatten(), dim=0).item()
        norm = (own_gradient.norm() / gradient.norm()).item()
        same = (loss.accepted == reference.accepted).float().mean().item()
        median = statistics.median(seconds[step])
        print(f"{step!s:>6} {seen:8.4f} {cosine:8.4f} {norm:7.4f} {same:14.4f} {sizes[step]:8.0f} {median:8.3f}")


def train(kept: list[int], n_steps: int) -> None:
    """A short training by the exact loss and by each K, from one start, with the true held-out divergence after it."""
    words = speckd.load_pair(student="raw", device="cpu").tokenizer
    texts = read_examples(TRAINING, words, limit=2 * n_steps, max_length=192).examples
    held_out = read_examples(ANSWERS, words, limit=16).examples
    print(f"\nyoung student, {n_steps} steps of 2 texts, Top-k, forward KL; held out {len(held_out)} answers")
    print(f"{'K':>6} {'held-out KL':>12} {'TAR':>7} {'CPU s/step':>11} {'CPU s to keep':>14}")
    with tempfile.TemporaryDirectory() as folder:
        for n_kept in (0, *kept):
            pair = speckd.load_pair(student="young", device="cpu")
            teacher, path = pair.teacher, Path(folder, f"{n_kept}.teach")
            started = time.process_time()
            settings: dict[str, Any] = {}
            if n_kept:
                source = LocalTeacher(teacher, "packaged", pair.teacher_sha256, n_kept=n_kept)
                checksum = tokenizer_sha256(pair.tokenizer)
                pair = replace(pair, teacher=write_teacher_file(path, source, texts, checksum, batch_size=4))
            else:
                settings["teacher_cache"] = f"{folder}/train"
                fill_cache(f"{folder}/train", teacher, pair.tokenizer, texts, pair.teacher_sha256)
            keeping = time.process_time() - started
            args = SpecKDConfig(
                output_dir=folder,
                use_cpu=True,
                disable_tqdm=True,
                max_steps=n_steps,
                warmup_steps=4,
                learning_rate=1e-3,
                per_device_train_batch_size=2,
                gate="topk:k=5:beta=0.01",
                **settings,
            )
            trainer = SpecKDTrainer(prepare_student(pair), args, texts)
            started = time.process_time()
            trainer.train()
            seconds = (time.process_time() - started) / n_steps
            after = evaluate_pair(replace(pair, teacher=teacher, student=trainer.pair.student.eval()), held_out)
            name = n_kept or "exact"
            print(f"{name!s:>6} {after.divergence:12.4f} {after.tar:7.4f} {seconds:11.3f} {keeping:14.1f}", flush=True)


if __name__ == "__main__":
    main()
