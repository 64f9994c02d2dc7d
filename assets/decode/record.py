"""Two papers' tables, made anew on the packaged pair: run, measured, written to files beside this one.

    python assets/decode/record.py policies      Dynamic Depth Decoding: how far to draft     -> policies.csv
    python assets/decode/record.py hispec        HiSpec: one level against two                 -> hispec.csv

(DistillSpec and the temperature study are made by trained.py.) ``--prompts`` and ``--tokens`` make it shorter. Every
figure is over held-out prompts, with a 95% interval from resamples of the prompts; every row names the command that
made it. All ways of a table decode a prompt round by round in turns with our plain loop, by the time that the process
worked on one thread; costs are measured between the rounds. Thresholds were chosen on other prompts (choices.json). What
was decoded is kept in runs/decode; the same command goes on from it.
"""

import argparse
import csv
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

import speckd
from speckd.decoding.draft_named import read_draft
from speckd.decoding.in_turns import decode_in_turns
from speckd.decoding.record import DecodeRecord
from speckd.decoding.replay import Replay, oracle, replay

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUNS = ROOT / "runs" / "decode"
CHAINS = (
    "fixed:g=1",
    "fixed:g=2",
    "fixed:g=4",
    "fixed:g=6",
    "confidence:p=0.3",
    "path:p=0.1",
    "cost",
)
TREES = (
    "tree:width=2:depth=2:nodes=3",
    "tree:width=4:depth=4:nodes=8",
    "ddd:x=-0.3:width=4:n=4:steps=1+2+3:nodes=8",
    "ddd:x=-0.7:width=4:n=4:steps=1+2+3:nodes=4",
)
CONTINUED = "fixed:g=1"  # the policy beside whose records the draft's continuations are kept
HISPEC = [
    ("exit:layer=8:raw=1", "fixed:g=2"),
    ("exit:layer=4", "fixed:g=2"),
    ("exit:layer=8", "fixed:g=1"),
    ("exit:layer=8", "fixed:g=2"),
    ("exit:layer=8", "cost"),
    ("hispec:draft=4:middle=8", "fixed"),
    ("hispec:draft=4:middle=8:n_draft=1:gather=2", "fixed"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("policies", "hispec"))
    parser.add_argument("--draft", default="eagle", help="of the policies' table")
    parser.add_argument("--data", choices=("heldout", "dev"), default="heldout")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--first", type=int, help="only the first so many of these")
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
        "policies": policies,
        "hispec": hispec,
    }
    rows = tables[options.table](options)
    command = "python assets/decode/record.py " + " ".join(sys.argv[1:])
    name = options.table if options.data == "heldout" else f"{options.table}-{options.data}"
    write_table(HERE / f"{name}.csv", [{**row, "command": command} for row in rows])


def prompts_of(options: argparse.Namespace) -> list[str]:
    lines = (ROOT / "assets" / "prompts" / f"{options.data}.jsonl").read_text(encoding="utf-8").splitlines()
    step = max(1, len(lines) // options.prompts)
    chosen = [json.loads(line)["prompt"] for line in lines[::step][: options.prompts]]
    return chosen[: getattr(options, "first", None)]


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})
    print(path.read_text(encoding="utf-8"))


# --- figures over prompts -------------------------------------------------------------------------------------------


def over_prompts(tops: Sequence[float], bottoms: Sequence[float]) -> tuple[float, float, float]:
    """sum of tops over sum of bottoms, and the ends of its 95% interval over resamples of the prompts."""
    draw, places = random.Random(0), range(len(tops))

    def ratio(chosen: Sequence[int]) -> float:
        bottom = sum(bottoms[place] for place in chosen)
        return sum(tops[place] for place in chosen) / bottom if bottom else float("nan")

    drawn = sorted(ratio(draw.choices(places, k=len(places))) for _ in range(2000))
    return ratio(places), drawn[50], drawn[1949]


def spread_out(name: str, figure: tuple[float, float, float]) -> dict[str, float]:
    return {name: figure[0], f"{name}_low": figure[1], f"{name}_high": figure[2]}


def figures(records: Sequence[DecodeRecord], plain: Sequence[float]) -> dict[str, Any]:
    """What a table says of one way of decoding: measured over the plain seconds of the same prompts."""
    rounds = [float(len(record.rounds)) for record in records]
    tokens = [float(record.n_tokens) for record in records]
    accepted = [float(sum(step.n_accepted for step in record.rounds)) for record in records]
    examined = [float(sum(step.n_examined for step in record.rounds)) for record in records]
    drafted = [sum(len(step.tokens) for step in record.rounds) for record in records]
    prices = [
        t / record.predicted_speedup for t, record in zip(tokens, records, strict=True) if record.predicted_speedup
    ]
    row: dict[str, Any] = {"prompts": len(records), "tokens": int(sum(tokens))}
    row |= spread_out("acceptance", over_prompts(accepted, examined))
    row |= spread_out("block_efficiency", over_prompts(tokens, rounds))
    row |= spread_out("speedup", over_prompts(plain, [record.seconds for record in records]))
    if len(prices) == len(tokens):
        row |= spread_out("predicted", over_prompts(tokens, prices))
    row["tokens_per_second"] = sum(tokens) / sum(record.seconds for record in records)
    row["thrown_away"] = sum(drafted) - int(sum(accepted))
    row["checks"] = sum(len(step.checks) for record in records for step in record.rounds)
    row["identical"] = all(record.identical in (True, None) for record in records)
    return row


def replayed(plays: Sequence[Replay]) -> dict[str, Any]:
    tokens = [float(play.n_tokens) for play in plays]
    accepted = [float(sum(play.accepted)) for play in plays]
    examined = [float(sum(a + (a < d) for a, d in zip(play.accepted, play.drafted, strict=True))) for play in plays]
    row: dict[str, Any] = {"prompts": len(plays), "tokens": int(sum(tokens))}
    row |= spread_out("acceptance", over_prompts(accepted, examined))
    row |= spread_out("block_efficiency", over_prompts(tokens, [float(len(play.starts)) for play in plays]))
    row |= spread_out("predicted", over_prompts(tokens, [play.time for play in plays]))
    row["thrown_away"] = sum(play.thrown_away for play in plays)
    return row


def told(ways: Sequence[Any]) -> Iterator[Any]:
    for number, way in enumerate(ways, 1):
        print(f"{number} of {len(ways)}: {way}", file=sys.stderr, flush=True)
        yield way


@cache
def the_pair() -> speckd.Pair:
    return speckd.load_pair(device="cpu", merge=True)


def in_turns(
    prompts: Sequence[str], ways: Sequence[tuple[str, str]], folder: Path, tokens: int
) -> dict[tuple[str, str], list[DecodeRecord]]:
    """Each (draft, policy) on each prompt, round by round in turns, with costs measured between the rounds; each record
    is kept in the folder."""
    done: dict[tuple[str, str], list[DecodeRecord]] = {way: [] for way in ways}
    folder.mkdir(parents=True, exist_ok=True)
    continued = next((way for way in ways if way[1] == CONTINUED), None)
    for turn, prompt in enumerate(told(prompts)):
        files = {way: folder / f"{turn}-{file_name(*way)}.json" for way in ways}
        if not all(file.exists() for file in files.values()):
            made = decode_in_turns(the_pair(), prompt, ways, max_new_tokens=tokens, continued=continued)
            for way, file in files.items():
                made[way].to_json(file)
        for way, file in files.items():
            done[way].append(DecodeRecord.from_json(file))
    return done


def file_name(draft: str, policy: str) -> str:
    return "".join(c if c.isalnum() or c in "=-.+" else "-" for c in f"{draft}-{policy}")


# --- the tables -----------------------------------------------------------------------------------------------------


def policies(options: argparse.Namespace) -> list[dict[str, Any]]:
    """How far to draft: fixed lengths, rules that stop, trees, and what hindsight could have done."""
    folder = RUNS / f"policies-{options.draft}-{options.data}-{options.tokens}-in-turns"
    prompts = prompts_of(options)
    # Continuations are kept beside a way that is decoded anyway: they do not count for its time.
    ways = [("none", "none"), *((options.draft, policy) for policy in (*CHAINS, *TREES))]
    done = in_turns(prompts, ways, folder, options.tokens)
    plain = [record.seconds for record in done["none", "none"]]
    texts = [record.output_ids for record in done["none", "none"]]
    rows = []
    for draft, policy in ways[1:]:
        records = done[draft, policy]
        assert [record.output_ids for record in records] == texts, "lossless decoding wrote another text"
        rows.append({"draft": draft, "policy": policy, **figures(records, plain)})
    looked = done[options.draft, CONTINUED]
    rows.append({"draft": options.draft, "policy": "oracle", **replayed([oracle(record) for record in looked])})
    for policy in CHAINS:
        play = replayed([replay(record, policy) for record in looked])
        rows.append({"draft": options.draft, "policy": f"{policy} (replayed)", **play})
    keep_runs(done, "policies", options)
    return rows


def hispec(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One exit against two, on the teacher's own layers, with and without trained branches."""
    folder = RUNS / f"hispec-{options.data}-{options.tokens}-in-turns"
    done = in_turns(prompts_of(options), [("none", "none"), *HISPEC], folder, options.tokens)
    plain = [record.seconds for record in done["none", "none"]]
    texts = [record.output_ids for record in done["none", "none"]]
    rows = []
    for draft, policy in HISPEC:
        records = done[draft, policy]
        assert [record.output_ids for record in records] == texts, "lossless decoding wrote another text"
        rows.append({"draft": draft, "policy": policy, **figures(records, plain), **levels(draft, records)})
    keep_runs(done, "hispec", options)
    return rows


def levels(draft: str, records: Sequence[DecodeRecord]) -> dict[str, Any]:
    """How many of the earliest exit's tokens each level stopped, and how many layers a written token took.

    Plain decoding runs 30 layers a token. An exit's rows run through the layers below it; rows that are handed up run
    through those above; the text's last token, where no exit ran it, through all.
    """
    depth, knobs = 30, read_draft(draft)[1]
    steps = [step for record in records for step in record.rounds]
    tokens = sum(record.n_tokens for record in records)
    if "middle" not in knobs:
        drafted = sum(len(step.tokens) for step in steps)
        passed = sum(step.n_accepted for step in steps)
        rows = sum(step.n_rows for step in steps)
        return {"stopped_by_teacher": (drafted - passed) / max(1, drafted), "layers_a_token": depth * rows / tokens}
    floors = [floor for step in steps for floor in step.floors]
    drafted, kept = sum(len(f["drafted"]) for f in floors), sum(f["accepted"] for f in floors)
    gathered, passed = sum(len(step.tokens) for step in steps), sum(step.n_accepted for step in steps)
    looked = sum(len(f["drafted"]) + 1 for f in floors)  # rows that ran up to the middle exit
    above = sum(step.n_rows for step in steps)
    layers = looked * knobs["middle"] + above * (depth - knobs["middle"]) + len(steps) * knobs["middle"]
    return {
        "stopped_by_middle": (drafted - kept) / max(1, drafted),
        "stopped_by_teacher": (gathered - passed) / max(1, gathered),
        "layers_a_token": layers / tokens,
    }


def keep_runs(
    done: dict[tuple[str, str], list[DecodeRecord]], table: str, options: argparse.Namespace, n_kept: int = 1
) -> None:
    """Keep the first runs of each way, for the page: assets/decode/runs."""
    if options.data != "heldout":
        return
    (HERE / "runs").mkdir(exist_ok=True)
    for (draft, policy), records in done.items():
        for number, record in enumerate(records[:n_kept]):
            record.to_json(HERE / "runs" / f"{table}-{file_name(draft, policy)}-{number}.json")


if __name__ == "__main__":
    main()
