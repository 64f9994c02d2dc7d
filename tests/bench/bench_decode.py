"""Speculative decoding against plain decoding, on held-out prompts: everything in one run, in turns, by CPU time.

    python tests/bench/bench_decode.py [--prompts 24] [--data dev] [--tokens 64] [--sample] [--json FILE] [--csv FILE]

Columns: transformers' generate, its assisted generation with the packaged student, its prompt lookup; our plain loop
over the lean forward; our drafts. For each prompt all of them answer: transformers' ways one after another, some
before ours and some after, in an order that turns with each prompt; ours round by round in turns. One thread, the time
that the process worked (on a GPU the time that passed), the reading of the prompt included for all. Greedy outputs must
be identical. Ratios are medians over prompts, with 95% intervals from 2,000 resamples of the prompts.

``--only NAME`` (several times) leaves the other columns out; ratios need one of the three that they are over. What was
measured stands in ``--json`` after each prompt, and the same command goes on from there.

Predicted: tokens over what the rounds should have cost, against the measured ratio of the same rounds over our plain
loop's, both without the reading of the prompt, which speculation leaves as it is. Costs are measured at each prompt
between the rounds of all, so that a slow spell of the machine meets both.
"""

import argparse
import csv
import json
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import speckd
from speckd.conversations import stop_token_ids
from speckd.data import encode_prompt
from speckd.decoding.coins import Coins
from speckd.decoding.costs import Costs
from speckd.decoding.draft_named import fit_draft
from speckd.decoding.eagle import find_eagle
from speckd.decoding.exact import DRAFT_ON
from speckd.decoding.forward import forward_of, near_tie_of
from speckd.decoding.in_turns import ROWS, by_turns
from speckd.decoding.measuring import Meter, known_costs
from speckd.decoding.policies import policy_from_text
from speckd.decoding.rounds import Round, Rounds, Rule, best_clock, clock_named

PROMPTS = Path(__file__).parents[2] / "assets" / "prompts"
OURS = [
    ("plain loop", "none", "none"),
    ("lookup", "lookup", "fixed:g=4"),
    ("student, g=1", "student:vocab=8192", "fixed:g=1"),
    ("eagle, cost", "eagle", "cost"),
    ("eagle, ddd", "eagle", DRAFT_ON.describe()),
    ("lookup+eagle, path", "lookup+eagle", "path:p=0.1:most=6"),
    ("lookup+eagle, cost", "lookup+eagle", "cost"),
    ("ours", "lookup+eagle", DRAFT_ON.describe()),  # what inspect, rollouts and the page take
]
Seconds = dict[str, list[float]]  # a token, of each way on each prompt
Rounded = dict[str, list[Any]]  # of our ways on each prompt: tokens, seconds, rows of each pass, steps of the draft


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--prompts", type=int, default=24)
    options.add_argument("--data", choices=("heldout", "dev"), default="heldout", help="dev: to choose by")
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument(
        "--device", default="cpu", choices=("cpu", "cuda"), help="float32 on both, by CPU or wall time"
    )
    options.add_argument("--sample", action="store_true", help="at temperature 1; transformers' columns draw their own")
    options.add_argument("--only", action="append", help="columns to run; the first is what ratios are over")
    options.add_argument("--json", metavar="FILE")
    options.add_argument("--csv", metavar="FILE")
    options.add_argument("--report", action="store_true", help="measure nothing: report what stands in --json so far")
    chosen = options.parse_args()
    if chosen.report:
        kept = json.loads(Path(chosen.json).read_text(encoding="utf-8"))
        report(kept["seconds_a_token"], kept["rounded"], kept["costs"], chosen)
        return
    torch.set_num_threads(1)
    pair = speckd.load_pair(device=chosen.device, dtype="float32", merge=True)
    rows = [json.loads(line) for line in (PROMPTS / f"{chosen.data}.jsonl").read_text("utf-8").splitlines()]
    prompts = [encode_prompt(pair.tokenizer, [{"role": "user", "content": row["prompt"]}]) for row in rows]
    prompts = prompts[:: max(1, len(prompts) // chosen.prompts)][: chosen.prompts]
    rounded: Rounded = {}
    theirs, ours, drafts = columns(pair, chosen.tokens, chosen.sample, chosen.only, rounded)
    taken, costs = measure(theirs, ours, drafts, pair, prompts, chosen, rounded)
    report(taken, rounded, costs, chosen)


def columns(
    pair: speckd.Pair, n_tokens: int, sample: bool, only: list[str] | None, rounded: Rounded
) -> tuple[dict[str, Callable[[list[int]], list[int]]], dict[str, Callable[[list[int]], Iterator[Round]]], dict]:
    """Transformers' ways by name, from a prompt's ids to the response's; ours, from a prompt's ids to the rounds, which
    also say in ``rounded`` what they were; and the drafts of ours by name."""

    def transformers_way(**more: object) -> Callable[[list[int]], list[int]]:
        def run(prompt: list[int]) -> list[int]:
            ids = torch.tensor([prompt], device=pair.device)
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
    ours, drafts, stops = {}, {}, stop_token_ids(pair.teacher, pair.tokenizer)
    near_tie = -1.0 if sample else near_tie_of(target, pair.teacher)
    for name, draft, policy_text in OURS:
        if ("eagle" in draft and find_eagle(pair) is None) or (only and name not in only):
            continue
        policy = policy_from_text(policy_text)
        fitted = fit_draft(pair, draft, target, policy, sample)
        costs = known_costs(pair, fitted, target) if policy.name == "cost" else None
        rounded[name] = []
        if draft != "none":
            drafts.setdefault(draft, fitted)
        ours[name] = our_way(target, fitted, policy, costs, n_tokens, stops, near_tie, sample, rounded[name])
    return {name: way for name, way in found.items() if not only or name in only}, ours, drafts


def our_way(target, fitted, policy, costs, n_tokens, stops, near_tie, sample, rounded):  # type: ignore[no-untyped-def]
    """A prompt's rounds, one after another; each is asked for by the stopwatch."""

    def begin(prompt: list[int]) -> Iterator[Round]:
        rule = Rule(Coins(0), near_tie=near_tie) if sample else Rule(near_tie=near_tie)
        draft = fitted.draft.fresh() if fitted.draft is not None else None
        steps = Rounds(target.fresh(), draft, rule, policy, prompt, n_tokens, costs=costs, stops=stops)
        n_written, seconds, rows, n_steps = 0, 0.0, [], 0
        for done in steps:
            n_written += len(done.output)
            seconds += done.draft_seconds + done.verify_seconds
            rows.append(len(done.drafted.tokens) + 1)
            n_steps += done.drafted.steps
            yield done
        rounded.append([n_written, seconds, rows, n_steps])

    return begin


def timed(rounds: Iterator[Round], seconds: list[float], clock: Callable[[], float]) -> Iterator[Round]:
    """The rounds; what each took, the reading of the prompt included, is added to ``seconds``."""
    while True:
        began = clock()
        done = next(rounds, None)
        seconds[0] += clock() - began
        if done is None:
            return
        yield done


@torch.inference_mode()
def measure(
    theirs: dict, ours: dict, fitted: dict, pair: speckd.Pair, prompts: list[list[int]], chosen: argparse.Namespace,
    rounded: Rounded,
) -> tuple[Seconds, dict[str, list[dict]]]:  # fmt: skip
    """Seconds a token of each way on each prompt, and the costs of each draft as measured between its rounds."""
    for way in theirs.values():
        way(prompts[0][:8])  # the first run of anything allocates and loads
    for begin in ours.values():
        list(begin(prompts[0][:8]))
    for rows in rounded.values():
        rows.clear()
    taken: Seconds = {name: [] for name in [*theirs, *ours]}
    costs: dict[str, list[dict]] = {draft: [] for draft in fitted}
    if chosen.json and Path(chosen.json).exists():
        kept = json.loads(Path(chosen.json).read_text(encoding="utf-8"))
        taken, costs = kept["seconds_a_token"], kept["costs"]
        assert list(taken) == [*theirs, *ours], f"{chosen.json} holds other columns: remove it, or choose another file"
        for name, rows in kept["rounded"].items():
            rounded[name] += rows
    target = forward_of(pair.teacher, pair.vocabulary_size)
    clock = clock_named(best_clock(pair.device), pair.device)
    for turn in range(len(taken[next(iter(ours))]), len(prompts)):
        prompt, texts = prompts[turn], {name: [] for name in ours}
        seconds: dict[str, list[float]] = {name: [0.0] for name in taken}
        names = list(theirs)[turn % 3 :] + list(theirs)[: turn % 3]
        for name in names[: turn % 2 + 1]:
            texts[name], seconds[name] = whole(theirs[name], prompt, clock)
        meter = Meter(list(fitted.values()), target, len(prompt) + chosen.tokens // 2, ROWS)
        running = [timed(begin(prompt), seconds[name], clock) for name, begin in ours.items()]
        for number, done in by_turns(running, meter.step):
            texts[list(ours)[number]] += done.output
        meter.turn()
        for name in names[turn % 2 + 1 :]:
            texts[name], seconds[name] = whole(theirs[name], prompt, clock)
        for name in taken:
            taken[name].append(seconds[name][0] / max(1, len(texts[name])))
        if not chosen.sample:
            different = [name for name in taken if texts[name] != texts[next(iter(ours))]]
            assert not different, f"prompt {turn}: {different} wrote another text"
        for draft in costs:
            costs[draft].append(meter.costs(fitted[draft].name).to_dict())
        if chosen.json:
            kept = {"seconds_a_token": taken, "rounded": rounded, "costs": costs}
            Path(chosen.json).write_text(json.dumps(kept) + "\n")
        print(f"{turn + 1} of {len(prompts)}", end="\r", flush=True)
    return taken, costs


def whole(
    way: Callable[[list[int]], list[int]], prompt: list[int], clock: Callable[[], float]
) -> tuple[list[int], list[float]]:
    """One of transformers' ways on a prompt: its text and its seconds."""
    began = clock()
    text = way(prompt)
    return text, [clock() - began]


def over_plain(rows: list[Any], plain: list[Any], costs: list[Costs] | None) -> tuple[float, float, float]:
    """Our plain loop's time a token over this way's, all prompts together, and the ends of its 95% interval: measured,
    or predicted where each prompt's costs are given."""

    def time_of(row: list[Any], place: int) -> float:
        return row[1] if costs is None else sum(map(costs[place].verify, row[2])) + costs[place].draft * row[3]

    def ratio(places: list[int]) -> float:
        times = [sum(time_of(one[i], i) for i in places) / sum(one[i][0] for i in places) for one in (rows, plain)]
        return times[1] / times[0]

    draw, every = random.Random(0), list(range(len(rows)))
    drawn = sorted(ratio(draw.choices(every, k=len(every))) for _ in range(2000))
    return ratio(every), drawn[50], drawn[1949]


def interval(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Median of the prompts' ratios first / second, and the ends of its 95% interval."""
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    return statistics.median(ratios), medians[50], medians[1949]


def report(taken: Seconds, rounded: Rounded, costs: dict[str, list[dict]], chosen: argparse.Namespace) -> None:
    bases = [name for name in ("generate", "assisted", "plain loop", "lookup") if name in taken]
    how = "sampled at temperature 1" if chosen.sample else "greedy, all outputs identical"
    print(f"{len(next(iter(taken.values())))} prompts, {chosen.tokens} tokens, {how}; speed-up over (95% interval)")
    print(f"{'':20}" + f"{'ms a token':>12}" + "".join(f"{base:>24}" for base in bases))
    table: list[dict[str, Any]] = []
    for name, seconds in taken.items():
        row: dict[str, Any] = {"way": name, "text": "sampled" if chosen.sample else "greedy"}
        row |= {"prompts": len(seconds), "tokens": chosen.tokens, "ms_a_token": 1000 * statistics.median(seconds)}
        cells = ""
        for base in bases:
            middle, low, high = interval(taken[base], seconds)
            row |= columns_of(f"over_{base.replace(' ', '_')}", (middle, low, high))
            cells += f"{middle:12.2f} ({low:.2f}..{high:.2f})"
        print(f"{name:20}{row['ms_a_token']:12.1f}{cells}")
        if name in rounded and "plain loop" in rounded and name != "plain loop":
            draft = next(draft for known, draft, _ in OURS if known == name)
            prices = [Costs.from_dict(one) for one in costs[draft]]
            row |= columns_of("rounds", over_plain(rounded[name], rounded["plain loop"], None))
            row |= columns_of("predicted", over_plain(rounded[name], rounded["plain loop"], prices))
            row |= {f"v{n}": statistics.median(one.verify(n) for one in prices) for n in (2, 4, 8)}
            row["c"] = statistics.median(one.draft for one in prices)
            print(f"{'':20}of the rounds alone {row['rounds']:.2f}, predicted {row['predicted']:.2f}")
        table.append(row)
    if chosen.csv:
        command = "python tests/bench/bench_decode.py " + " ".join(sys.argv[1:])
        names = list(dict.fromkeys(name for row in table for name in row))
        with Path(chosen.csv).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [*names, "command"], lineterminator="\n")
            writer.writeheader()
            for row in table:
                told = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
                writer.writerow(told | {"command": command})


def columns_of(name: str, figure: tuple[float, float, float]) -> dict[str, float]:
    return {name: figure[0], f"{name}_low": figure[1], f"{name}_high": figure[2]}


if __name__ == "__main__":
    main()
