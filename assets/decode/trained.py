"""Drafts before and after distillation, and by temperature: the tables of DistillSpec and of the temperature study.

    python assets/decode/trained.py distillspec   divergence x whose text x gate             -> distillspec.csv
    python assets/decode/trained.py temperature   training by decoding temperature           -> temperature.csv
    python assets/decode/trained.py measure       decode with each draft, beside the plain loop: adds measured speed
    python assets/decode/trained.py record        one short decoding with each draft, for the page       -> arms/

Each arm goes on from one draft: a run of ``python -m speckd distill --draft eagle:start=...`` over the same prompts in
the same order. ``--start shipped`` is the EAGLE-like layer that ships; ``young`` is one that was stopped early (60
steps on 240 texts), so that there is more left to learn. The teacher's text is its answer from assets/responses, cut at
48 tokens; the draft's own was drawn from the start's q at temperature 1, token by token beside the teacher's features,
once before training. The teacher writes held-out texts once at each decoding temperature; what a draft would have
passed there follows from both models' rows without a coin (``expected_rounds``), so that two drafts differ by what they
learned and by nothing else. Speed is predicted from these and from costs measured here; ``measure`` decodes a few of
the prompts for the rest.

Everything that was made is kept in runs/decode and not made again. Intervals: 95%, from resamples of the prompts.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from record import HERE, ROOT, RUNS, over_prompts, prompts_of, spread_out, told, write_table
from torch import Tensor

import speckd
from speckd.data import Example, encode_prompt
from speckd.decoding.costs import Costs
from speckd.decoding.eagle import EagleLayer, cut_head, read_draft
from speckd.decoding.record import DecodeRecord
from speckd.heads import Head
from speckd.pairs import load_pair
from speckd.rollouts import Sampling, generate_batch
from speckd.training.draft import distill_draft
from speckd.training.draft_data import DraftData, read_draft_data
from speckd.training.draft_figures import logits_of, unrolled
from speckd.training.draft_settings import DraftSettings
from speckd.training.draft_text import DraftTexts, draft_texts

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd", "tvd")
WRITERS = ("teacher", "student")
GATES = ("none", "topk")
TRAINED_AT, DECODED_AT = (0.5, 1.0, 1.5, 2.0), (0.0, 0.5, 1.0, 1.5, 2.0)
LENGTH = 2  # tokens drafted a round
POLICY = f"fixed:g={LENGTH}"
STARTS = {"shipped": "assets/drafts/eagle", "young": "runs/decode/young/draft"}
TRAINING: dict[str, Any] = {
    "start": STARTS["shipped"],
    "depth": LENGTH,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "warmup": 4,
    "precision": "bf16",
    "keep_features": False,
}
GROUP, N_WRITTEN = 32, 48  # prompts whose texts are drawn side by side, tokens of each
N_RECORDED = 24  # tokens of a decoding that the page opens


folder = RUNS  # where this start's drafts, texts and figures are kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("distillspec", "temperature", "measure", "record"))
    parser.add_argument("--data", choices=("heldout",), default="heldout")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16, help="of a draft's training")
    parser.add_argument("--start", choices=tuple(STARTS), default="young", help="the draft that all arms go on from")
    parser.add_argument("--texts", type=int, default=128, help="that the arms learn from")
    parser.add_argument("--rate", type=float, default=1e-3, help="of their learning, at most")
    options = parser.parse_args()
    torch.set_num_threads(1)
    global folder
    folder = RUNS / f"from-{options.start}-{options.texts}-{options.rate:g}"
    TRAINING.update(start=STARTS[options.start], learning_rate=options.rate)
    if options.what in ("measure", "record"):
        (measure if options.what == "measure" else record)(options)
        return
    rows = distillspec(options) if options.what == "distillspec" else temperature(options)
    command = "python assets/decode/trained.py " + " ".join(sys.argv[1:])
    write_table(HERE / f"{options.what}.csv", [{**row, "command": command} for row in rows])


# --- the drafts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """One trained draft: what it was trained with; ``objective`` "before" is the start of all."""

    objective: str
    text: str = ""
    gate: str = ""
    temperature: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.objective}-{self.text}-{self.gate}-{self.temperature:g}"

    @property
    def page_name(self) -> str:
        """As the page's grids name it (app/grids.py)."""
        return "before" if self.objective == "before" else self.name


BEFORE = Arm("before")
DISTILLSPEC = [
    BEFORE,
    *(Arm(divergence, text, gate) for divergence in DIVERGENCES for text in WRITERS for gate in GATES),
]
TEMPERATURES = [Arm("forward_kl", "teacher", "none", tau) for tau in TRAINED_AT]


def trained(arm: Arm, options: argparse.Namespace) -> str:
    """The folder of an arm's draft, made where it is not there yet."""
    if arm == BEFORE:
        return start_of_all()
    run = folder / f"{arm.name}-{options.steps}"
    if not (run / "draft" / "draft.safetensors").exists():
        write_texts(options.texts)
        settings = DraftSettings(
            data=text_file(arm.text),
            output=str(run.relative_to(ROOT)),
            divergence=arm.objective,
            gate=arm.gate,
            temperature=arm.temperature,
            steps=options.steps,
            **TRAINING,
        )
        distill_draft(settings, resume=run.exists(), data=data_of(arm.text))
    return str(run / "draft")


def text_file(writer: str) -> str:
    return str((folder / f"{writer}.jsonl").relative_to(ROOT))


def start_of_all() -> str:
    """The folder of the draft that all arms start from; the young one has the shipped one's vocabulary."""
    start = ROOT / TRAINING["start"]
    if not (start / "draft.safetensors").exists():
        more = {"limit": 240, "max_length": 112, "steps": 60, "learning_rate": 3e-3, "warmup": 6}
        settings = DraftSettings(
            data="assets/responses/self-asked.jsonl",
            output=str(Path(TRAINING["start"]).parent),
            **{**TRAINING, **more, "start": None},
        )
        data = read_draft_data(settings, lambda _: None, load=lambda *_, **__: the_pair())
        vocabulary = read_draft(ROOT / STARTS["shipped"], the_pair().teacher_sha256)[1]
        distill_draft(settings, resume=start.parent.exists(), data=replace(data, vocabulary=vocabulary))
    return str(start)


@cache
def data_of(text: str) -> DraftData:
    """The texts with the teacher's features: read once for all arms."""
    settings = DraftSettings(data=text_file(text), output="", **TRAINING)
    return read_draft_data(settings, lambda _: None, load=lambda *_, **__: the_pair())


@cache
def the_pair() -> speckd.Pair:
    return load_pair(device="cpu", merge=True)


def write_texts(n_prompts: int) -> None:
    """The same prompts' texts by the teacher and by the draft that all arms start from."""
    if all((ROOT / text_file(who)).exists() for who in WRITERS):
        return
    pair = the_pair()
    lines = [json.loads(line) for line in (ROOT / "assets/responses/train.jsonl").read_text("utf-8").splitlines()]
    lines = list({line["prompt"]: line for line in lines}.values())
    asked = [encode_prompt(pair.tokenizer, [{"role": "user", "content": line["prompt"]}]) for line in lines]
    # Prompts of one length stand side by side without padding, so the common lengths are taken.
    common = Counter(len(ids) for ids in asked).most_common()
    chosen: list[list[int]] = []
    for length, _ in common:
        group = [number for number, ids in enumerate(asked) if len(ids) == length][:GROUP]
        chosen.append(group[: n_prompts - sum(map(len, chosen))])
        if sum(map(len, chosen)) == n_prompts:
            break
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, list[dict[str, Any]]] = {"teacher": [], "student": []}
    for group in told(chosen):
        own = draws_of_the_draft(pair, [asked[number] for number in group])
        for number, ids in zip(group, own, strict=True):
            line = lines[number]
            theirs = line.get("response_ids") or pair.tokenizer.encode(line["response"], add_special_tokens=False)
            for who, response in (("teacher", theirs[:N_WRITTEN]), ("student", ids)):
                text = pair.tokenizer.decode(response, skip_special_tokens=True)
                row = {"prompt": line["prompt"], "response": text, "response_ids": response, "finished": False}
                written[who].append(row)
    for who, rows in written.items():
        partial = folder / f"{who}.tmp"
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        partial.rename(ROOT / text_file(who))


@torch.no_grad()
def draws_of_the_draft(pair: speckd.Pair, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Texts drawn from the start's q, each token beside the teacher's features of those before it.

    Args:
        prompts: of one length.
    """
    layer, vocabulary, _ = read_draft(start_of_all(), pair.teacher_sha256)
    head, embedding = cut_head(Head.of(pair.teacher), vocabulary), pair.teacher.get_input_embeddings().weight
    trunk, generator = pair.teacher.get_decoder(), torch.Generator().manual_seed(0)
    ids = torch.tensor(prompts)
    output = trunk(input_ids=ids, use_cache=True)
    features, cache = output.last_hidden_state, output.past_key_values
    for _ in range(N_WRITTEN):
        roots = torch.full((len(ids), 1), ids.shape[1] - 1)
        expected = layer.unroll(embedding[ids], features, roots, 1)[0][:, 0]
        drawn = torch.multinomial(torch.softmax(logits_of(head, expected), -1), 1, generator=generator)
        ids = torch.cat([ids, vocabulary[drawn]], 1)
        output = trunk(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
        features = torch.cat([features, output.last_hidden_state], 1)
    stop = pair.tokenizer.eos_token_id
    texts = ids[:, len(prompts[0]) :].tolist()
    return [text[: text.index(stop) + 1] if stop in text else text for text in texts]


# --- what they would have passed ------------------------------------------------------------------------------------


@cache
def teachers_texts(tau: float, n_prompts: int, n_tokens: int) -> DraftTexts:
    """What the teacher writes to the held-out prompts at a decoding temperature (0 is greedy), with its features.

    ``log_total`` is of the softmax at that temperature.
    """
    pair = the_pair()
    file = RUNS / f"texts-{tau:g}-{n_prompts}-{n_tokens}.json"
    if not file.exists():
        options = argparse.Namespace(data="heldout", prompts=n_prompts)
        prompts = [encode_prompt(pair.tokenizer, [{"role": "user", "content": p}]) for p in prompts_of(options)]
        sampling = Sampling(do_sample=tau > 0, temperature=tau or 1.0, max_new_tokens=n_tokens, seed=1)
        rows = []
        for at in range(0, len(prompts), 16):
            some = prompts[at : at + 16]
            numbers = range(at, at + len(some))
            answers = generate_batch(
                pair.teacher, pair.tokenizer, some, sampling, answers=numbers, vocabulary_size=pair.vocabulary_size
            )
            rows += [[prompt, answer.response_ids] for prompt, answer in zip(some, answers, strict=True)]
        RUNS.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows), encoding="utf-8")
    rows = json.loads(file.read_text(encoding="utf-8"))
    examples = [Example(prompt, response, number) for number, (prompt, response) in enumerate(rows, 1)]
    texts = draft_texts(pair.teacher, examples, pair.teacher_sha256)
    assert texts is not None
    if tau in (0.0, 1.0):
        return texts
    whole, totals = Head.of(pair.teacher), []
    with torch.no_grad():
        for some in texts.features.split(2048):
            totals.append((whole.logits(some.float(), pair.vocabulary_size) / tau).logsumexp(-1))
    return replace(texts, log_total=torch.cat(totals))


@torch.no_grad()
def acceptances(layer: EagleLayer, vocabulary: Tensor, texts: DraftTexts, tau: float) -> list[list[list[float]]]:
    """Of each text, for each drafted place of a round and each token that a round may start with: the chance that the
    token drafted there passes where all before it did, sum min(p, q); greedily 1 or 0."""
    pair = the_pair()
    head, embedding = cut_head(Head.of(pair.teacher), vocabulary), pair.teacher.get_input_embeddings().weight
    told_of = []
    for number in range(len(texts)):
        batch = texts.batch([number])
        teacher, n_rows = logits_of(head, batch.root_features[0]), batch.roots.shape[1]
        chances = []
        for step, expected in enumerate(unrolled(layer, embedding, batch, LENGTH)):
            student = logits_of(head, expected[0])[: n_rows - step]
            if tau == 0:
                passes = (vocabulary[student.argmax(-1)] == batch.best[0, step:]).double()
            else:
                p = (teacher[step:] / tau - batch.log_total[0, step:, None]).exp()
                passes = torch.minimum(p, torch.softmax(student / tau, -1)).sum(-1).double()
            chances.append(passes.tolist())
        told_of.append(chances)
    return told_of


def expected_rounds(chances: Sequence[Sequence[float]]) -> float:
    """Rounds that a text is expected to take.

    A round that starts at place t passes k drafted tokens with chance a_0(t) ... a_(k-1)(t) (1 - a_k(t)), or all of
    them, and adds one of the teacher's: so from each place follow the chances of the next start.

    Args:
        chances: a_k(t), for each drafted place k.
    """
    n_tokens, length = len(chances[0]), len(chances)
    starts = [1.0] + [0.0] * (n_tokens + length)
    for place in range(n_tokens):
        reach = starts[place]
        for passed in range(length + 1):
            goes_on = chances[passed][place] if passed < length and place < len(chances[passed]) else 0.0
            starts[place + passed + 1] += reach * (1.0 - goes_on)
            reach *= goes_on
    return sum(starts[:n_tokens])


def judged(arm: Arm, tau: float, costs: Costs, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one draft at one decoding temperature; kept on disk."""
    file = folder / f"judged-{arm.name}-{options.steps}-{tau:g}-{options.prompts}-{options.tokens}.json"
    if not file.exists():
        layer, vocabulary, _ = read_draft(trained(arm, options), the_pair().teacher_sha256)
        made = acceptances(layer, vocabulary, teachers_texts(tau, options.prompts, options.tokens), tau)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(made), encoding="utf-8")
    chances: list[list[list[float]]] = json.loads(file.read_text(encoding="utf-8"))
    tokens = [float(len(of_text[0])) for of_text in chances]
    row: dict[str, Any] = {"prompts": len(chances), "tokens": int(sum(tokens))}
    row |= spread_out("acceptance", over_prompts([sum(of_text[0]) for of_text in chances], tokens))
    rounds = [expected_rounds(of_text) for of_text in chances]
    row |= spread_out("block_efficiency", over_prompts(tokens, rounds))
    price = costs.verify(LENGTH + 1) + LENGTH * costs.draft
    row |= spread_out("predicted", over_prompts(tokens, [price * count for count in rounds]))
    if arm != BEFORE:  # the same texts, so that what the prompts have in common drops out
        before = [sum(of_text[0]) for of_text in json.loads(judged_before(tau, options).read_text(encoding="utf-8"))]
        gains = [sum(of_text[0]) - was for of_text, was in zip(chances, before, strict=True)]
        row |= spread_out("gained", over_prompts(gains, tokens))
    return row


def judged_before(tau: float, options: argparse.Namespace) -> Path:
    return folder / f"judged-{BEFORE.name}-{options.steps}-{tau:g}-{options.prompts}-{options.tokens}.json"


def costs_here() -> Costs:
    """What a pass and a step of the draft cost, measured once: all arms have one shape."""
    file = RUNS / "costs.json"
    if not file.exists():
        costs = speckd.measure_costs(the_pair(), "eagle", repeats=5, context=96)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(costs.to_dict()), encoding="utf-8")
    return Costs.from_dict(json.loads(file.read_text(encoding="utf-8")))


# --- the tables -----------------------------------------------------------------------------------------------------


def distillspec(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Four divergences on the teacher's and on the draft's own text, plain and gated; greedy and at temperature 1."""
    costs, rows = costs_here(), []
    for arm in told(DISTILLSPEC):
        row: dict[str, Any] = {"objective": arm.objective, "text": arm.text, "gate": arm.gate}
        for name, tau in (("greedy", 0.0), ("sampled", 1.0)):
            row |= {f"{name}_{figure}": value for figure, value in judged(arm, tau, costs, options).items()}
            row |= {f"{name}_{figure}": value for figure, value in measured(arm, tau).items()}
        rows.append(row)
    return rows


def temperature(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Drafts trained at one temperature, decoding at another; 0 is greedy, and "before" was not trained."""
    costs, rows = costs_here(), []
    for arm in told([BEFORE, *TEMPERATURES]):
        for tau in DECODED_AT:
            row = {"trained_at": "before" if arm == BEFORE else arm.temperature, "decoded_at": tau}
            rows.append(row | judged(arm, tau, costs, options) | measured(arm, tau))
    return rows


def measured(arm: Arm, tau: float) -> dict[str, Any]:
    """The measured speed of what ``measure`` decoded with this draft, if it did."""
    file = folder / f"measured-{arm.name}-{tau:g}.json"
    if not file.exists():
        return {}
    kept = json.loads(file.read_text(encoding="utf-8"))
    row: dict[str, Any] = spread_out("speedup", over_prompts(kept["plain"], kept["seconds"]))
    return row | {"measured_prompts": len(kept["plain"])}


def cells() -> list[tuple[Arm, float]]:
    """Each draft of both tables with each temperature that it decodes at there."""
    chosen = {(arm, tau) for arm in DISTILLSPEC for tau in (0.0, 1.0)}
    chosen |= {(arm, tau) for arm in [BEFORE, *TEMPERATURES] for tau in DECODED_AT}
    return sorted(chosen, key=lambda cell: (cell[0].name, cell[1]))


def decoded(arm: Arm, tau: float, prompt: str, tokens: int, options: argparse.Namespace) -> DecodeRecord:
    draft = f"eagle:file={Path(trained(arm, options)).relative_to(ROOT)}"
    how: dict[str, Any] = {"do_sample": tau > 0, "temperature": tau or 1.0, "max_new_tokens": tokens}
    return speckd.decode(the_pair(), prompt, draft=draft, policy=POLICY, costs=costs_here(), **how)


def measure(options: argparse.Namespace) -> None:
    """Decode the first prompts with each draft of both tables."""
    prompts = prompts_of(argparse.Namespace(data="heldout", prompts=24))
    for arm, tau in told(cells()):
        file = folder / f"measured-{arm.name}-{tau:g}.json"
        kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"plain": [], "seconds": []}
        for number in range(len(kept["plain"]), options.prompts):
            done = decoded(arm, tau, prompts[number], options.tokens, options)
            kept["plain"].append(done.plain_seconds)
            kept["seconds"].append(done.seconds)
            file.write_text(json.dumps(kept), encoding="utf-8")


def record(options: argparse.Namespace) -> None:
    """One short decoding of the first held-out prompt with each draft, where it is not there yet: what a cell of the
    page's grids opens. Probabilities are kept to five digits."""
    prompt = prompts_of(argparse.Namespace(data="heldout", prompts=24))[0]
    arms = HERE / "arms" / f"{folder.name}-{options.steps}"
    arms.mkdir(parents=True, exist_ok=True)
    for arm, tau in told(cells()):
        file = arms / f"{arm.page_name}-{tau:g}.json"
        if not file.exists():
            data = decoded(arm, tau, prompt, N_RECORDED, options).to_dict()
            data["rounds"] = [rounded(step) for step in data["rounds"]]
            DecodeRecord.from_dict(data).to_json(file)


def rounded(value: Any, digits: int = 5) -> Any:
    """The same data with its numbers cut to some digits, its seconds as they are: figures follow from these."""
    if isinstance(value, dict):
        return {name: one if name.endswith("_seconds") else rounded(one, digits) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one, digits) for one in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
