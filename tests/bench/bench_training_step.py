"""What a training step costs: SpecKDTrainer, without and with the teacher cache, against TRL's GKDTrainer off-policy.

    python tests/bench/bench_training_step.py [--repeats 7] [--batch 4] [--tokens 96]
    python tests/bench/bench_training_step.py --device cuda --dtype bfloat16 --batch 16 --tokens 192

The packaged pair, a fresh LoRA of rank 64 on the six-layer student, the same texts, forward KL (GKD's beta 0, lmbda 0),
weights of both trainers in float32 or in --dtype. A step is forward, backward, clipping and AdamW. Medians of steps
taken in turns in one process, so that a busy machine slows all alike. Tokens are response tokens: GKD also computes the
logits of prompt and padding.

The floor is what no implementation can leave out: the same trunk passes on the padded batch and the three products with
the heads (both models' logits, the gradient of the student's), and nothing else: no softmax, no gate, no optimizer.

The peer is TRL 1.16.0's experimental GKDTrainer (``make bench`` installs it); without it, its row is left out.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import speckd
from speckd.data import Example, collate, encode_prompt, read_examples, response_rows
from speckd.fused.gated_sum import CHUNK_ELEMENTS
from speckd.heads import Head, trunk_of
from speckd.rollouts import Sampling, generate_batch
from speckd.training.config import SpecKDConfig
from speckd.training.prepare import prepare_student
from speckd.training.teacher_cache import fill_cache
from speckd.training.trainer import SpecKDTrainer

PROMPTS = Path(__file__).parents[2] / "assets" / "prompts" / "heldout.jsonl"
PEER_VERSION = "1.16.0"
WANTED = {"speckd, topk": 1.3, "speckd, topk, teacher cache": 2.2}  # times GKD's tokens a second
FLOORS = {"speckd, topk": ("floor", 1.10), "speckd, topk, teacher cache": ("floor, teacher cache", 1.15)}  # at most


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--batch", type=int, default=4)
    options.add_argument("--tokens", type=int, default=96)
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    options.add_argument("--no-peer", action="store_true", help="leave TRL out")
    chosen = options.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    # With one thread its own time can be told from that of others on this machine.
    on_cpu = chosen.device == "cpu"
    clock = time.process_time if on_cpu and torch.get_num_threads() == 1 else time.perf_counter
    where = f"{torch.get_num_threads()} threads" if on_cpu else f"{torch.cuda.get_device_name()}, {chosen.dtype}"
    print(f"{where}; torch {torch.__version__}; batch {chosen.batch}, {chosen.tokens} tokens")

    def raw_pair() -> speckd.Pair:
        return speckd.load_pair(student="raw", device=chosen.device, dtype=chosen.dtype)

    teacher = raw_pair()
    examples, rows = texts(teacher, chosen.batch, chosen.tokens)
    n_tokens = sum(len(example.response_ids) for example in examples)
    with tempfile.TemporaryDirectory() as folder:
        cache = os.path.join(folder, "cache")
        fill_cache(cache, teacher.teacher, teacher.tokenizer, examples, teacher.teacher_sha256)
        steps = {
            "floor": floor(teacher, raw_pair(), examples, cached=False),
            "floor, teacher cache": floor(teacher, raw_pair(), examples, cached=True),
            "speckd, none": ours(raw_pair(), rows, folder, chosen.batch, gate="none"),
            "speckd, topk": ours(raw_pair(), rows, folder, chosen.batch, gate="topk"),
            "speckd, topk, teacher cache": ours(
                raw_pair(), rows, folder, chosen.batch, gate="topk", teacher_cache=cache
            ),
        }
        for name, more in {"": {}, ", cache": {"teacher_cache": cache}}.items() if on_cpu else ():
            steps[f"speckd, bf16 products{name}"] = ours(
                raw_pair(), rows, folder, chosen.batch, gate="topk", products="bf16", **more
            )
        peer = None if chosen.no_peer else gkd_step(teacher, raw_pair(), rows, folder, chosen.batch)
        if peer is not None:
            steps[f"TRL {PEER_VERSION} GKD, lmbda 0"] = peer
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(chosen.repeats + 1):
            for name, step in steps.items():
                started = clock()
                step()
                if not on_cpu:
                    torch.cuda.synchronize()
                if turn:  # the first turn warms up
                    seconds[name].append(clock() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    theirs = medians.get(f"TRL {PEER_VERSION} GKD, lmbda 0")
    print(f"{'step':32} {'median s':>9} {'fastest':>8} {'tokens/s':>9} {'x GKD':>7} {'x floor':>8}")
    for name, median in medians.items():
        ratio = f"{theirs / median:7.2f}" if theirs else "      -"
        wanted = f"  (at least {WANTED[name]}" if name in WANTED else ""
        below = "       -"
        if name in FLOORS:
            least, limit = FLOORS[name]
            # the ratio of steps of one turn: what else the machine did then slowed both
            paired = [own / other for own, other in zip(seconds[name], seconds[least], strict=True)]
            below, wanted = f"{statistics.median(paired):8.2f}", f"{wanted} GKD, at most {limit} floor)"
        print(f"{name:32} {median:9.3f} {min(seconds[name]):8.3f} {n_tokens / median:9.1f} {ratio} {below}{wanted}")


def texts(pair: speckd.Pair, batch: int, tokens: int) -> tuple[list[Example], list[dict[str, Any]]]:
    """The teacher's greedy answers to the first held-out prompts: as examples, and as chat messages for the peer."""
    prompts = read_examples(PROMPTS, pair.tokenizer, needs_response=False, limit=batch).examples
    ids = [encode_prompt(pair.tokenizer, example.messages) for example in prompts]
    answers = generate_batch(pair.teacher, pair.tokenizer, ids, Sampling(max_new_tokens=tokens))
    rows = []
    for example, answer in zip(prompts, answers, strict=True):
        text = pair.tokenizer.decode(answer.response_ids, skip_special_tokens=True)
        rows.append({"messages": [*example.messages, {"role": "assistant", "content": text}]})
    return read_examples(rows, pair.tokenizer).examples, rows


def optimizer_step(trainer: Any, model: Any, batch: Any, n_tokens: Any) -> None:
    trainer.training_step(model, batch, n_tokens)
    trainer.accelerator.clip_grad_norm_(model.parameters(), 1.0)
    trainer.optimizer.step()
    model.zero_grad()


def ours(raw: speckd.Pair, rows: list[dict[str, Any]], folder: str, batch: int, **settings: Any) -> Callable[[], None]:
    """One optimizer step of a SpecKDTrainer, ready to be repeated."""
    pair = prepare_student(raw, lora_rank=64)
    args = SpecKDConfig(
        output_dir=folder,
        use_cpu=raw.device.type == "cpu",
        disable_tqdm=True,
        max_steps=1,
        per_device_train_batch_size=batch,
        **settings,
    )
    trainer = SpecKDTrainer(pair, args, rows)
    trainer.train()  # one step by the usual way: everything is prepared then
    loader = trainer.get_train_dataloader()

    def step() -> None:
        batches, n_tokens = trainer.get_batch_samples(iter(loader), 1, trainer.args.device)
        optimizer_step(trainer, trainer.model_wrapped, batches[0], n_tokens)

    return step


def floor(pair: speckd.Pair, raw: speckd.Pair, examples: list[Example], cached: bool) -> Callable[[], None]:
    """The trunk passes and the three products of a step, and nothing else."""
    student = prepare_student(raw, lora_rank=64).student.train()
    rows = [
        {"input_ids": one.prompt_ids + one.response_ids, "n_prompt": len(one.prompt_ids), "number": one.number}
        for one in examples
    ]
    batch = collate(rows, pair.tokenizer.pad_token_id)
    given = {name: batch[name].to(pair.device) for name in ("input_ids", "attention_mask")} | {"use_cache": False}
    picked = response_rows(batch["labels"]).to(pair.device)
    heads = [Head.of(model).weight.detach() for model in (pair.teacher, student)]
    with torch.no_grad():
        kept = trunk_of(pair.teacher)(**given).last_hidden_state[:, :-1][picked]
    size = max(1, CHUNK_ELEMENTS // len(heads[0]))
    buffers = [head.new_empty(size, len(head)) for head in heads]

    def step() -> None:
        with torch.no_grad():
            theirs = kept if cached else trunk_of(pair.teacher)(**given).last_hidden_state[:, :-1][picked]
        own = trunk_of(student)(**given).last_hidden_state[:, :-1][picked]
        gradient = torch.empty_like(own)
        with torch.no_grad():
            for start in range(0, len(own), size):
                part = slice(start, min(start + size, len(own)))
                n = part.stop - part.start
                torch.mm(theirs[part], heads[0].t(), out=buffers[0][:n])
                torch.mm(own[part], heads[1].t(), out=buffers[1][:n])
                torch.mm(buffers[1][:n], heads[1], out=gradient[part])
        own.backward(gradient)
        student.zero_grad()

    return step


def gkd_step(
    pair: speckd.Pair, raw: speckd.Pair, rows: list[dict[str, Any]], folder: str, batch: int
) -> Callable[[], None] | None:
    """The same of TRL's GKDTrainer with the same student, or None where TRL is not installed."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    try:
        import trl
        from datasets import Dataset
        from trl.experimental.gkd import GKDConfig, GKDTrainer
    except ImportError:
        return None
    if trl.__version__ != PEER_VERSION:
        print(f"trl is {trl.__version__} here; the figures are meant for {PEER_VERSION}")
    student = prepare_student(raw, lora_rank=64).student
    args = GKDConfig(
        output_dir=folder,
        use_cpu=raw.device.type == "cpu",
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        report_to=[],
        save_strategy="no",
        max_steps=1,
        per_device_train_batch_size=batch,
        learning_rate=3e-3,
        lmbda=0.0,
        beta=0.0,
        temperature=1.0,
        max_length=512,
    )
    trainer = GKDTrainer(
        model=student,
        teacher_model=pair.teacher,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=pair.tokenizer,
    )
    trainer.train()
    loader = trainer.get_train_dataloader()

    def step() -> None:
        batches, n_tokens = trainer.get_batch_samples(iter(loader), 1, trainer.args.device)
        optimizer_step(trainer, trainer.model_wrapped, batches[0], n_tokens)

    return step


if __name__ == "__main__":
    main()
