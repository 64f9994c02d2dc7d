"""Speculative decoding against plain decoding, on held-out prompts: everything in one run, in turns, by CPU time.

    python tests/bench/bench_decode.py [--prompts 24] [--tokens 64] [--sample] [--json FILE]

Columns: transformers' generate, its assisted generation with the packaged student, its prompt lookup; our plain loop
over the lean forward; our drafts. For each prompt all of them answer, one after another, in an order that turns with
each prompt; one thread, the time that the process worked, the reading of the prompt included for all. Greedy outputs
must be identical. Ratios are medians over prompts, with 95% intervals from 2,000 resamples of the prompts.

``--only NAME`` (several times) leaves the other columns out; ratios need one of the three that they are over.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import speckd
from speckd.data import encode_prompt
from speckd.decoding.coins import Coins
from speckd.decoding.decode import known_costs, near_tie_of, stop_ids
from speckd.decoding.draft_named import fit_draft
from speckd.decoding.eagle import find_eagle
from speckd.decoding.forward import forward_of
from speckd.decoding.policies import policy_from_text
from speckd.decoding.rounds import Rounds, Rule

PROMPTS = Path(__file__).parents[2] / "assets" / "prompts" / "heldout.jsonl"
OURS = [
    ("plain loop", "none", "none"),
    ("lookup", "lookup", "fixed:g=4"),
    ("student, g=1", "student:vocab=8192", "fixed:g=1"),
    ("student, cost", "student:vocab=8192", "cost"),
    ("eagle, confidence", "eagle", "confidence:p=0.5:most=6"),
    ("eagle, cost", "eagle", "cost"),
    ("eagle, path", "eagle", "path:p=0.1:most=6"),  # chosen on dev prompts, as is the next
    ("eagle, tree", "eagle", "tree:width=2:depth=2:nodes=3"),
]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--prompts", type=int, default=24)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--sample", action="store_true", help="at temperature 1; transformers' columns draw their own")
    options.add_argument("--only", action="append", help="columns to run; the first is what ratios are over")
    options.add_argument("--json", metavar="FILE")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    pair = speckd.load_pair(device="cpu", merge=True)
    rows = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    prompts = [encode_prompt(pair.tokenizer, [{"role": "user", "content": row["prompt"]}]) for row in rows]
    prompts = prompts[:: max(1, len(prompts) // chosen.prompts)][: chosen.prompts]
    ways = columns(pair, chosen.tokens, chosen.sample, chosen.only)
    taken = measure(ways, prompts, chosen.sample)
    report(taken, chosen)


def columns(
    pair: speckd.Pair, n_tokens: int, sample: bool, only: list[str] | None
) -> dict[str, Callable[[list[int]], list[int]]]:
    """Name -> a function from a prompt's ids to the response's."""

    def transformers_way(**more: object) -> Callable[[list[int]], list[int]]:
        def run(prompt: list[int]) -> list[int]:
            ids = torch.tensor([prompt])
            how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {"do_sample": False}
            written = pair.teacher.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=n_tokens,
                pad_token_id=pair.tokenizer.pad_token_id,
                **how,
                **more,
            )
            return written[0, len(prompt) :].tolist()

        return run

    found = {
        "generate": transformers_way(),
        "assisted": transformers_way(assistant_model=pair.student),
        "prompt lookup": transformers_way(prompt_lookup_num_tokens=10),
    }
    target = forward_of(pair.teacher, pair.vocabulary_size)
    stops = stop_ids(pair)
    near_tie = -1.0 if sample else near_tie_of(target, pair.teacher)
    for name, draft, policy_text in OURS:
        if (draft == "eagle" and find_eagle(pair) is None) or (only and name not in only):
            continue
        policy = policy_from_text(policy_text)
        fitted = fit_draft(pair, draft, target, policy, sample)
        costs = known_costs(pair, fitted, target) if policy.name == "cost" else None
        found[name] = our_way(target, fitted, policy, costs, n_tokens, stops, near_tie, sample)
    return {name: way for name, way in found.items() if not only or name in only}


def our_way(target, fitted, policy, costs, n_tokens, stops, near_tie, sample):  # type: ignore[no-untyped-def]
    def run(prompt: list[int]) -> list[int]:
        rule = Rule(Coins(0), near_tie=near_tie) if sample else Rule(near_tie=near_tie)
        draft = fitted.draft.fresh() if fitted.draft is not None else None
        steps = Rounds(target.fresh(), draft, rule, policy, prompt, n_tokens, costs=costs, stops=stops)
        return [token for done in steps for token in done.output]

    return run


@torch.inference_mode()
def measure(ways: dict, prompts: list[list[int]], sample: bool) -> dict[str, list[float]]:
    """Seconds a token of each way on each prompt."""
    names = list(ways)
    for name in names:
        ways[name](prompts[0][:8])  # the first run of anything allocates and loads
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn, prompt in enumerate(prompts):
        texts = {}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.process_time()
            texts[name] = ways[name](prompt)
            taken[name].append((time.process_time() - began) / max(1, len(texts[name])))
        if not sample:
            different = [name for name in names if texts[name] != texts[names[0]]]
            assert not different, f"prompt {turn}: {different} wrote another text than {names[0]}"
        print(f"{turn + 1} of {len(prompts)}", end="\r", flush=True)
    return taken


def interval(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Median of the prompts' ratios first / second, and the ends of its 95% interval."""
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    return statistics.median(ratios), medians[50], medians[1949]


def report(taken: dict[str, list[float]], chosen: argparse.Namespace) -> None:
    bases = [name for name in ("generate", "assisted", "plain loop") if name in taken]
    how = "sampled at temperature 1" if chosen.sample else "greedy, all outputs identical"
    print(f"{len(next(iter(taken.values())))} prompts, {chosen.tokens} tokens, {how}; speed-up over (95% interval)")
    print(f"{'':20}" + f"{'ms a token':>12}" + "".join(f"{base:>24}" for base in bases))
    table: dict[str, dict] = {}
    for name, seconds in taken.items():
        ratios = {base: interval(taken[base], seconds) for base in bases}
        table[name] = {"ms": 1000 * statistics.median(seconds), **{b: list(r) for b, r in ratios.items()}}
        cells = "".join(f"{middle:12.2f} ({low:.2f}..{high:.2f})" for middle, low, high in ratios.values())
        print(f"{name:20}{table[name]['ms']:12.1f}{cells}")
    if chosen.json:
        Path(chosen.json).write_text(json.dumps({"seconds_a_token": taken, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
