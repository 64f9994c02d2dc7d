"""The tables of four papers, made anew on the packaged pair: run, measured, written to files beside this one.

    python assets/decode/record.py policies      Dynamic Depth Decoding: how far to draft     -> policies.csv
    python assets/decode/record.py hispec        HiSpec: one level against two                 -> hispec.csv
    python assets/decode/record.py distillspec   DistillSpec: what distilling the draft buys   -> distillspec.csv
    python assets/decode/record.py temperature   training by decoding temperature              -> temperature.csv

``--prompts`` and ``--tokens`` make it shorter. Every figure is over held-out prompts, with a 95% interval from resamples
of the prompts; every row names the command that made it. Speed is measured in turns with our plain loop, by the time
that the process worked on one thread. Thresholds were chosen on other prompts: ``policies --data dev``.

The trained drafts are made on the way (``--steps``), each by its own ``python -m speckd distill`` command, and kept in
runs/decode; what is there already is not made again.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import speckd
from speckd.decoding.costs import Costs
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
    "confidence:p=0.4",
    "confidence:p=0.6",
    "path:p=0.3",
    "cost",
)
TREES = (
    "tree:width=4:depth=3:nodes=8",
    "ddd:x=-0.3:width=4:n=6:steps=1+2+3:nodes=8",
    "ddd:x=-0.9:width=4:n=6:steps=1+2+3:nodes=8",
    "ddd:x=-1.5:width=4:n=6:steps=1+2+3:nodes=8",
)
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd", "tvd")
TEMPERATURES = {"train": (0.5, 1.0, 1.5, 2.0), "decode": (0.0, 0.5, 1.0, 1.5, 2.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("policies", "hispec", "distillspec", "temperature"))
    parser.add_argument("--draft", default="eagle", help="of the policies' table")
    parser.add_argument("--data", choices=("heldout", "dev"), default="heldout")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60, help="of a draft's training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
        "policies": policies,
        "hispec": hispec,
        "distillspec": distillspec,
        "temperature": temperature,
    }
    rows = tables[options.table](options)
    command = "python assets/decode/record.py " + " ".join(sys.argv[1:])
    name = options.table if options.data == "heldout" else f"{options.table}-{options.data}"
    write_table(HERE / f"{name}.csv", [{**row, "command": command} for row in rows])


def prompts_of(options: argparse.Namespace) -> list[str]:
    lines = (ROOT / "assets" / "prompts" / f"{options.data}.jsonl").read_text(encoding="utf-8").splitlines()
    step = max(1, len(lines) // options.prompts)
    return [json.loads(line)["prompt"] for line in lines[::step][: options.prompts]]


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


def in_turns(
    pair: speckd.Pair, prompts: Sequence[str], ways: Sequence[tuple[str, str]], costs: dict[str, Costs], **more: Any
) -> dict[tuple[str, str], list[DecodeRecord]]:
    """Each (draft, policy) on each prompt, the ways in turns within a prompt."""
    done: dict[tuple[str, str], list[DecodeRecord]] = {way: [] for way in ways}
    for turn, prompt in enumerate(told(prompts)):
        shift = turn % len(ways)
        for draft, policy in [*ways[shift:], *ways[:shift]]:
            given = costs.get(draft)
            record = speckd.decode(pair, prompt, draft=draft, policy=policy, plain=False, costs=given, **more)
            done[draft, policy].append(record)
    return done


# --- the tables -----------------------------------------------------------------------------------------------------


def policies(options: argparse.Namespace) -> list[dict[str, Any]]:
    """How far to draft: fixed lengths, rules that stop, trees, and what hindsight could have done."""
    pair = speckd.load_pair(device="cpu", merge=True)
    costs = speckd.measure_costs(pair, options.draft)
    prompts = prompts_of(options)
    ways = [("none", "none"), *((options.draft, policy) for policy in (*CHAINS, *TREES))]
    done = in_turns(pair, prompts, ways, {options.draft: costs}, max_new_tokens=options.tokens)
    plain = [record.seconds for record in done["none", "none"]]
    texts = [record.output_ids for record in done["none", "none"]]
    rows = []
    for draft, policy in ways[1:]:
        records = done[draft, policy]
        assert [record.output_ids for record in records] == texts, "lossless decoding wrote another text"
        rows.append({"draft": draft, "policy": policy, **figures(records, plain)})
    looked = [
        speckd.decode(
            pair, p, draft=options.draft, policy="none", plain=False, costs=costs, continuations=True,
            max_new_tokens=options.tokens,
        )
        for p in told(prompts)
    ]  # fmt: skip
    rows.append({"draft": options.draft, "policy": "oracle", **replayed([oracle(record) for record in looked])})
    for policy in CHAINS:
        play = replayed([replay(record, policy) for record in looked])
        rows.append({"draft": options.draft, "policy": f"{policy} (replayed)", **play})
    keep_runs(done, "policies", options)
    return rows


def hispec(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One exit against two, on the teacher's own layers."""
    pair = speckd.load_pair(device="cpu", merge=True)
    ways = [
        ("none", "none"),
        ("exit:layer=4", "fixed:g=2"),
        ("exit:layer=8", "fixed:g=2"),
        ("exit:layer=8", "cost"),
        ("hispec:draft=4:middle=8", "fixed"),
    ]
    costs = {draft: speckd.measure_costs(pair, draft) for draft in {draft for draft, _ in ways} - {"none"}}
    done = in_turns(pair, prompts_of(options), ways, costs, max_new_tokens=options.tokens)
    plain = [record.seconds for record in done["none", "none"]]
    rows = []
    for (draft, policy), records in list(done.items())[1:]:
        row = {"draft": draft, "policy": policy, **figures(records, plain)}
        floors = [floor for record in records for step in record.rounds for floor in step.floors]
        if floors:
            row["stopped_low"] = sum(len(floor["drafted"]) - floor["accepted"] for floor in floors)
            row["passed_low"] = sum(floor["accepted"] for floor in floors)
        rows.append(row)
    keep_runs(done, "hispec", options)
    return rows


def distillspec(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The packaged young student as a draft, before and after distillation: divergence x whose text x gate."""
    drafts = {("before", "", ""): "young"}
    for divergence in DIVERGENCES:
        for text in ("teacher", "student"):
            for gate in ("none", "topk"):
                drafts[divergence, text, gate] = trained(
                    options, f"{divergence}-{text}-{gate}", "--divergence", divergence, "--gate", gate, *TEXTS[text]
                )
    rows = []
    for (divergence, text, gate), student in told(list(drafts.items())):
        pair = speckd.load_pair(student=str(student), device="cpu", merge=True)
        row = {"objective": divergence, "text": text, "gate": gate}
        rows.append(row | greedy_and_sampled(pair, options))
    return rows


TEXTS = {
    "teacher": ("--responses", "file"),
    "student": ("--responses", "student"),
}


def greedy_and_sampled(pair: speckd.Pair, options: argparse.Namespace) -> dict[str, Any]:
    draft = "student:vocab=8192"
    costs = speckd.measure_costs(pair, draft)
    row: dict[str, Any] = {}
    for name, how in (("greedy", {"do_sample": False}), ("sampled", {"do_sample": True, "temperature": 1.0})):
        ways = [("none", "none"), (draft, "fixed:g=2")]
        done = in_turns(pair, prompts_of(options), ways, {draft: costs}, max_new_tokens=options.tokens, **how)
        plain = [r.seconds / r.n_tokens * d.n_tokens for r, d in zip(*done.values(), strict=True)]
        row |= {f"{name}_{figure}": value for figure, value in figures(done[draft, "fixed:g=2"], plain).items()}
    return row


def temperature(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Drafts trained at one temperature, decoding at another; 0 is greedy."""
    rows = []
    for train in TEMPERATURES["train"]:
        student = trained(options, f"tau-{train:g}", "--temperature", str(train), "--gate", "none", *TEXTS["teacher"])
        pair = speckd.load_pair(student=str(student), device="cpu", merge=True)
        draft = "student:vocab=8192"
        costs = speckd.measure_costs(pair, draft)
        for tau in told(TEMPERATURES["decode"]):
            how: dict[str, Any] = {"do_sample": tau > 0, "temperature": tau or 1.0, "max_new_tokens": options.tokens}
            ways = [("none", "none"), (draft, "fixed:g=2")]
            done = in_turns(pair, prompts_of(options), ways, {draft: costs}, **how)
            plain = [r.seconds / r.n_tokens * d.n_tokens for r, d in zip(*done.values(), strict=True)]
            row = {"trained_at": train, "decoded_at": tau}
            rows.append(row | figures(done[draft, "fixed:g=2"], plain))
            keep_runs(done, f"temperature-{train:g}-{tau:g}", options, n_kept=1)
    return rows


def trained(options: argparse.Namespace, name: str, *settings: str) -> Path:
    """The folder of a student trained from the young one with these settings; made where it is not there yet."""
    folder = RUNS / f"{name}-{options.steps}"
    if not list(folder.rglob("adapter_model.safetensors")):
        data = "assets/responses/train.jsonl"
        command = [sys.executable, "-m", "speckd", "distill", data, "--student", "young", "--output", str(folder)]
        command += ["--steps", str(options.steps), "--seed", "0", *settings]
        subprocess.run(command, check=True, cwd=ROOT)
    return max(folder.rglob("adapter_model.safetensors"), key=lambda path: path.stat().st_mtime).parent


def keep_runs(
    done: dict[tuple[str, str], list[DecodeRecord]], table: str, options: argparse.Namespace, n_kept: int = 2
) -> None:
    """Keep the first runs of each way, for the page: assets/decode/runs."""
    if options.data != "heldout":
        return
    (HERE / "runs").mkdir(exist_ok=True)
    for (draft, policy), records in done.items():
        for number, record in enumerate(records[:n_kept]):
            name = "".join(c if c.isalnum() or c in "=-.+" else "-" for c in f"{table}-{draft}-{policy}")
            record.to_json(HERE / "runs" / f"{name}-{number}.json")


if __name__ == "__main__":
    main()
