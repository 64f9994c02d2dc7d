"""Choose policies and their knobs on development prompts: greedy texts and what the drafts say at each place, replayed.

    python assets/decode/choose.py [--prompts 24] [--tokens 64]      -> choices.json

The teacher writes each text once. At every place the layer's widest tree and what lookup finds are kept; then any
policy's rounds follow without a model. Its time is counted by costs: v(n) and c, medians of several measurements on one
thread of this kind of machine (``COSTS``); a wider step of the draft costs a little more (``WIDER``, per beam). So the
figures rank policies; what they bring is measured by tests/bench/bench_decode.py on held-out prompts.
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from record import HERE, ROOT, RUNS, told

import speckd
from speckd.conversations import stop_token_ids
from speckd.data import encode_prompt
from speckd.decoding.costs import Costs
from speckd.decoding.draft_named import fit_draft
from speckd.decoding.drafts import LookupDraft
from speckd.decoding.forward import forward_of
from speckd.decoding.policies import DynamicDepth, Plain, policy_from_text
from speckd.decoding.rounds import Drafted, Rounds, Rule

COSTS = Costs((1, 2, 3, 4, 5, 7, 9, 13, 17), (1.0, 1.12, 1.2, 1.27, 1.33, 1.45, 1.57, 1.82, 2.1), 0.075)
WIDER, WIDTH, DEPTH = 0.02, 4, 5
Proposal = tuple[list[int], list[int], float]  # tokens, parents, what drafting them cost in teacher tokens


@dataclass(frozen=True)
class Place:
    """What the drafts would say at one place of a text: the layer's widest tree, and what lookup finds, if anything."""

    tokens: list[int]
    parents: list[int]
    logprobs: list[float]
    paths: list[float]
    found: list[int]

    def children(self, node: int) -> list[int]:
        nodes = [child for child, parent in enumerate(self.parents) if parent == node]
        return sorted(nodes, key=lambda child: -self.logprobs[child])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    texts = read_texts(options)
    ranked: dict[str, list[dict[str, Any]]] = {}
    for draft in ("eagle", "lookup+eagle", "lookup"):
        rows = []
        for policy in POLICIES:
            if draft != "lookup" or policy.startswith("fixed"):
                speed, block = figures(texts, proposer(draft, policy))
                rows.append({"policy": policy, "predicted": round(speed, 3), "block_efficiency": round(block, 3)})
        ranked[draft] = sorted(rows, key=lambda row: -row["predicted"])
    best = {kind: best_of(ranked["eagle"], kind) for kind in ("fixed", "confidence", "path", "cost", "tree", "ddd")}
    told_of = {
        "command": "python assets/decode/choose.py " + " ".join(sys.argv[1:]),
        "texts": len(texts),
        "tokens": sum(len(ids) for ids, _ in texts),
        "costs": COSTS.to_dict(),
        "best_of_each_kind_for_eagle": best,
        "best": {draft: rows[:5] for draft, rows in ranked.items()},
        "chosen": {"draft": "lookup+eagle", "policy": CHOSEN},
    }
    (HERE / "choices.json").write_text(json.dumps(told_of, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(told_of, indent=1))


def best_of(rows: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(row for row in rows if row["policy"].partition(":")[0] == kind)


def ddd(x: float, width: int, n: int, nodes: int, p: float) -> str:
    return DynamicDepth(x=x, width=width, n=n, steps=(1, 2, 3), nodes=nodes, p=p).describe()


CHOSEN = ddd(-0.6, 3, 4, 5, 0.1)
POLICIES = [
    *(f"fixed:g={g}" for g in (1, 2, 3, 4, 5)),
    *(f"confidence:p={p}:most=5" for p in (0.2, 0.3, 0.4, 0.5)),
    *(f"path:p={p}:most=5" for p in (0.05, 0.1, 0.15, 0.2, 0.3)),
    "cost",
    *(
        f"tree:width={width}:depth={depth}:nodes={nodes}:p={p}"
        for width, depth, nodes, p in itertools.product((2, 3, 4), (1, 2, 3), (3, 5, 8), (0.0, 0.1))
    ),
    *itertools.starmap(
        ddd, itertools.product((-0.3, -0.5, -0.6, -0.7, -0.9), (2, 3, 4), (3, 4), (4, 5, 8), (0.0, 0.05, 0.1))
    ),
]


# --- the texts --------------------------------------------------------------------------------------------------------


def read_texts(options: argparse.Namespace) -> list[tuple[list[int], list[Place]]]:
    """The teacher's greedy texts with what the drafts would say at each place; kept in runs/decode."""
    file = RUNS / f"dev-{options.prompts}-{options.tokens}.json"
    if not file.exists():
        pair = speckd.load_pair(device="cpu", merge=True)
        lines = (ROOT / "assets/prompts/dev.jsonl").read_text(encoding="utf-8").splitlines()
        chosen = lines[:: max(1, len(lines) // options.prompts)][: options.prompts]
        made = [one_text(pair, json.loads(line)["prompt"], options.tokens) for line in told(chosen)]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([[ids, [vars(place) for place in places]] for ids, places in made]), "utf-8")
    return [(ids, [Place(**place) for place in places]) for ids, places in json.loads(file.read_text("utf-8"))]


def one_text(pair: speckd.Pair, prompt: str, n_tokens: int) -> tuple[list[int], list[Place]]:
    target, stops = forward_of(pair.teacher, pair.vocabulary_size), stop_token_ids(pair.teacher, pair.tokenizer)
    prompt_ids = encode_prompt(pair.tokenizer, [{"role": "user", "content": prompt}])
    text: list[int] = []
    states = []
    for done in Rounds(target.fresh(), None, Rule(near_tie=-1.0), Plain(), prompt_ids, n_tokens, stops=stops):
        text += done.output
        states.append(done.hidden)
    teacher = target.fresh()
    first = torch.cat([torch.zeros((1, target.width)), teacher.feed(prompt_ids[:-1])])
    features = [first, *torch.cat(states).split(1)]
    tree = policy_from_text(f"tree:width={WIDTH}:depth={DEPTH}:nodes=64")
    draft = fit_draft(pair, "eagle", target, tree, False).draft
    assert draft is not None
    lookup = LookupDraft(pair.vocabulary_size)
    grower = Rounds(target.fresh(), draft, Rule(), tree, prompt_ids, n_tokens, stops=stops)
    places, news = [], prompt_ids
    for number in range(len(text)):
        row = draft.commit(news, features[number], [])
        grown = grower._grow_tree(row, Drafted(steps=1), DEPTH, tree)  # type: ignore[arg-type]
        lookup.commit(news, None, [])
        places.append(Place(grown.tokens, grown.parents, grown.logprobs, grown.paths, lookup.found))
        news = text[number : number + 1]
    return text, places


# --- policies on them ---------------------------------------------------------------------------------------------


def proposer(draft: str, policy: str) -> Callable[[], Any]:
    """Makes, for one text, what proposes at a place and what learns from it."""
    chosen = policy_from_text(policy)

    def begin() -> tuple[Callable[[Place], tuple[Proposal, list[float]]], Callable[[list[float], int], None]]:
        rule = chosen.begin(COSTS)

        def learn(confidences: list[float], passed: int) -> None:
            rule.learn(confidences, passed, passed + (passed < len(confidences)))

        def propose(place: Place) -> tuple[Proposal, list[float]]:
            if not rule.looks(0, 0.0):
                return ([], [], 0.0), []
            if "lookup" in draft and (place.found or draft == "lookup"):
                tokens = place.found[: rule.most]
                return (tokens, list(range(-1, len(tokens) - 1)), 0.0), [1.0] * len(tokens)
            return (grow(place, chosen), []) if chosen.tree else chain(place, rule)

        return propose, learn

    return begin


def chain(place: Place, rule: Any) -> tuple[Proposal, list[float]]:
    tokens: list[int] = []
    confidences: list[float] = []
    node, path, steps = -1, 0.0, 1
    while children := place.children(node):
        node = children[0]
        confidence = math.exp(place.logprobs[node])
        if not rule.takes(len(tokens), path, confidence):
            break
        tokens.append(place.tokens[node])
        confidences.append(confidence)
        path += place.logprobs[node]
        if len(tokens) >= min(rule.most, DEPTH) or not rule.looks(len(tokens), path):
            break
        steps += 1
    return (tokens, list(range(-1, len(tokens) - 1)), steps * COSTS.draft), confidences


def grow(place: Place, policy: Any) -> Proposal:
    found: list[int] = []
    beam, cost = [-1], 0.0
    for step in range(1, policy.depth + 1):
        cost += COSTS.draft + WIDER * (len(beam) - 1)
        children = [child for node in beam for child in place.children(node)[: policy.width]]
        found += children
        beam = sorted(children, key=lambda node: -place.paths[node])[: policy.width]
        if not beam:
            break
        held = math.log(sum(math.exp(place.paths[node]) for node in beam))
        if policy.checks(step) and policy.stops(held):
            break
    likely = [node for node in found if math.exp(place.paths[node]) >= policy.p]
    kept = sorted(sorted(likely, key=lambda node: (-place.paths[node], node))[: policy.nodes])
    number = {node: index for index, node in enumerate(kept)}
    parents = [number.get(place.parents[node], -1) for node in kept]
    return [place.tokens[node] for node in kept], parents, cost


def passed(text: Sequence[int], start: int, tokens: Sequence[int], parents: Sequence[int]) -> int:
    """Drafted tokens that the text goes on with; one token of a round is always the teacher's own."""
    node, count = -1, 0
    while start + count < len(text) - 1:
        goes_on = [n for n, p in enumerate(parents) if p == node and tokens[n] == text[start + count]]
        if not goes_on:
            break
        node, count = goes_on[0], count + 1
    return count


def figures(texts: Sequence[tuple[list[int], list[Place]]], begin: Callable[[], Any]) -> tuple[float, float]:
    """Speed over plain decoding by the costs, and tokens a round."""
    time, n_tokens, n_rounds = 0.0, 0, 0
    for text, places in texts:
        propose, learn = begin()
        start = 0
        while start < len(text):
            (tokens, parents, cost), confidences = propose(places[start])
            count = passed(text, start, tokens, parents)
            learn(confidences, count)
            time += COSTS.verify(len(tokens) + 1) + cost
            start += count + 1
            n_rounds += 1
        n_tokens += len(text)
    return n_tokens / time, n_tokens / n_rounds


if __name__ == "__main__":
    main()
