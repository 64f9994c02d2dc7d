"""What is measured of a trained student: on given answers, on its own text, on small tasks, and of the training itself.

    given answers    divergences, TAR at 1, 5 and 20, acceptance, agreement: means over the answers' tokens
    greedy_, own_    the student's own text, greedy and sampled at temperature 1, judged by the teacher
    tasks            exact match on generated tasks; the teacher's own score is the ceiling. tasks_chosen: the right
                     answer is the likeliest of three or four
    draft            block efficiency of the student as a draft of the teacher
    steadiness       spread of the gradient norm, largest jump of the held-out curve, whether it diverged
    bite, panel      what a gate really changed, and what every other selector would have kept (see panel.py)

Everything of the teacher's is made once for a set of prompts (``Examiner``), so that many students cost little.
"""

import copy
import itertools
import math
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from speckd.conversations import encode_prompt
from speckd.data import Example, collate, positions_before, response_rows
from speckd.divergences import entropy, forward_kl, jsd, reverse_kl, tvd
from speckd.evaluation import rouge_l, words_in
from speckd.heads import Head, hidden_rows
from speckd.pairs import Pair
from speckd.ranks import topk_threshold
from speckd.rollouts import Sampling, generate

TAR_AT = (1, 5, 20)
DRAFT_LENGTH = 4  # drafted tokens a round, for block efficiency
COLUMNS = ("divergence", "reverse_kl", "jsd", "tvd", *(f"tar{k}" for k in TAR_AT), "teacher_entropy", "student_entropy")
CHUNK_ELEMENTS = 12 * 2**20  # logits of one model at a time on a CPU; a GPU takes three times as many
_BATCH_TOKENS = 4096  # of one pass of a trunk on a CPU


# --- rows of text under two models --------------------------------------------------------------------------------


@torch.no_grad()
def hidden_of(model: Any, examples: Sequence[Example]) -> list[Tensor]:
    """The (n, H) last hidden states of each example's response rows, in batches of like length."""
    device = next(model.parameters()).device
    most = _BATCH_TOKENS if device.type == "cpu" else 8 * _BATCH_TOKENS
    lengths = [len(example.prompt_ids) + len(example.response_ids) for example in examples]
    order = sorted(range(len(examples)), key=lambda index: -lengths[index])
    found: list[Tensor | None] = [None] * len(examples)
    while order:
        n = max(1, most // lengths[order[0]])
        part, order = order[:n], order[n:]
        rows = [
            {
                "input_ids": examples[i].prompt_ids + examples[i].response_ids,
                "n_prompt": len(examples[i].prompt_ids),
                "number": 0,
            }
            for i in part
        ]
        batch = collate(rows, pad_id=0)
        picked = response_rows(batch["labels"])
        hidden = hidden_rows(model, batch["input_ids"], positions_before(picked), batch["attention_mask"])
        for index, rows_of_text in zip(part, hidden.split(picked.sum(-1).tolist()), strict=True):
            found[index] = rows_of_text
    return [hidden for hidden in found if hidden is not None]


@torch.no_grad()
def measure_rows(
    student_hidden: Tensor,
    student_head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    vocabulary: int,
    token_ids: Tensor | None = None,
) -> dict[str, Tensor]:
    """Every figure of each response row, at temperature 1.

    Args:
        student_hidden, teacher_hidden: (N, H_s), (N, H_t).
        vocabulary: rows of the vocabulary that both have.
        token_ids: (N,) the tokens of the text, for the teacher's surprise at them.
    Returns:
        name -> (N,) float64 on the CPU: COLUMNS, and teacher_nats, -log p(token), where token_ids are given.
    """
    big = CHUNK_ELEMENTS if student_hidden.device.type == "cpu" else 3 * CHUNK_ELEMENTS
    size = max(1, big // vocabulary)
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(student_hidden), size):
        rows = slice(start, start + size)
        p = teacher_head.logits(teacher_hidden[rows], vocabulary).log_softmax(-1)  # (n, V)
        q = student_head.logits(student_hidden[rows], vocabulary).log_softmax(-1)
        ranks = topk_threshold(p, q)
        found = {
            "divergence": forward_kl(p, q),
            "reverse_kl": reverse_kl(p, q),
            "jsd": jsd(p, q),
            "tvd": tvd(p, q),
            **{f"tar{k}": ranks <= k for k in TAR_AT},
            "teacher_entropy": entropy(p),
            "student_entropy": entropy(q),
        }
        if token_ids is not None:
            found["teacher_nats"] = -p.gather(-1, token_ids[rows].to(p.device)[:, None])[:, 0]
        for name, values in found.items():
            parts.setdefault(name, []).append(values.double())
    return {name: torch.cat(values).cpu() for name, values in parts.items()}


# --- the examiner -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A small task with one right answer. kind: of which sort it is. others: wrong answers of the same sort."""

    kind: str
    prompt: str
    answer: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class TeacherFacts:
    """What the teacher contributes to the figures: made once for a set of prompts, kept in a study's folder.

    Attributes:
        greedy: its greedy answers to the prompts, as token ids.
        tasks: its greedy answers to the tasks, as text.
    """

    greedy: list[list[int]]
    tasks: list[str]


def teacher_facts(
    pair: Pair, examples: Sequence[Example], tasks: Sequence[Task], longest: int, n_own: int
) -> TeacherFacts:
    """Let the teacher answer: the first ``n_own`` prompts greedily with at most ``longest`` tokens, and the tasks."""
    greedy = write(pair.teacher, pair, [example.prompt_ids for example in examples[:n_own]], longest)
    return TeacherFacts(greedy, answer_tasks(pair.teacher, pair, tasks))


def write(model: Any, pair: Pair, prompts: Sequence[Sequence[int]], longest: int, seed: int | None = None) -> list:
    """Token ids of a model's answers: greedy, or sampled at temperature 1 with the seed."""
    sampling = Sampling(do_sample=seed is not None, max_new_tokens=longest, seed=seed or 0)
    made: list[list[int]] = [[] for _ in prompts]
    for index, answer in generate(
        model, pair.tokenizer, prompts, sampling, batch_size=64, vocabulary_size=pair.vocabulary_size
    ):
        made[index] = answer.response_ids
    return made


def answer_tasks(model: Any, pair: Pair, tasks: Sequence[Task], longest: int = 24) -> list[str]:
    """A model's greedy answers to the tasks, as text."""
    prompts = [encode_prompt(pair.tokenizer, [{"role": "user", "content": task.prompt}]) for task in tasks]
    return [pair.tokenizer.decode(ids, skip_special_tokens=True) for ids in write(model, pair, prompts, longest)]


@torch.no_grad()
def chosen_right(model: Any, pair: Pair, tasks: Sequence[Task]) -> float:
    """The share of tasks whose right answer a model finds likelier than each of the others.

    A student that cannot write the answer yet may already prefer it: where exact match is 0, this still tells.
    Likelihood is the sum of log q over the answer's tokens, straight after the prompt.
    """
    head, texts = Head.of(model), list[Example]()
    for task in tasks:
        prompt = encode_prompt(pair.tokenizer, [{"role": "user", "content": task.prompt}])
        answers = (pair.tokenizer.encode(one, add_special_tokens=False) for one in (task.answer, *task.others))
        texts += [Example(prompt, ids, len(texts) + 1) for ids in answers]
    likely = []
    for text, hidden in zip(texts, hidden_of(model, texts), strict=True):
        log_q = head.logits(hidden, pair.vocabulary_size).log_softmax(-1)
        likely.append(log_q.gather(-1, torch.tensor(text.response_ids, device=log_q.device)[:, None]).sum().item())
    right, at = 0, 0
    for task in tasks:
        own, *others = likely[at : at + 1 + len(task.others)]
        right += all(own > other for other in others)
        at += 1 + len(task.others)
    return right / len(tasks)


def is_right(task: Task, answer: str) -> bool:
    """Whether an answer names the task's own, as whole words, in its first sentence."""
    words = words_in(re.split(r"(?<=[^\W_]|\")[.!?\n]|[。！？]", answer.strip(), maxsplit=1)[0])
    expected = words_in(task.answer)
    return bool(expected) and any(
        words[start : start + len(expected)] == expected for start in range(len(words) - len(expected) + 1)
    )


class Examiner:
    """Measures trained students of one teacher on one set of prompts.

    Args:
        pair: its teacher; students come later.
        examples: prompts with given answers.
        facts: the teacher's own answers, from ``teacher_facts`` with the same prompts and tasks.
        tasks: small tasks with one right answer.
        n_own: the student itself answers so many of the prompts, greedily and sampled.
        longest: tokens of such an answer, at most.
        seed: names the sampled answers.
    """

    def __init__(
        self,
        pair: Pair,
        examples: Sequence[Example],
        facts: TeacherFacts,
        tasks: Sequence[Task] = (),
        *,
        n_own: int = 24,
        longest: int = 64,
        seed: int = 0,
    ) -> None:
        self.pair, self.examples, self.facts, self.tasks = pair, list(examples), facts, list(tasks)
        self.n_own, self.longest, self.seed = min(n_own, len(self.examples)), longest, seed
        self.head, self.vocabulary = Head.of(pair.teacher), pair.vocabulary_size
        self.teacher_hidden = torch.cat(hidden_of(pair.teacher, self.examples))  # (N, H_t)
        # Where the teacher speaks greedily, its own path is the output of greedy speculative decoding.
        self.paths = [
            replace(example, response_ids=ids)
            for example, ids in zip(self.examples[: self.n_own], facts.greedy, strict=False)
            if ids
        ]
        self.paths_hidden = torch.cat(hidden_of(pair.teacher, self.paths)) if self.paths else None

    def figures(self, student: Any) -> tuple[dict[str, float], dict[str, Any]]:
        """All figures of a student as it is now, and what is kept beside them.

        Returns:
            name -> number; and prompts (means by prompt), texts (its answers to the first three prompts).
        """
        was_training = student.training
        student.eval()
        model = merged_copy(student)
        try:
            found, by_prompt = self._given(model)
            found |= self._as_draft(model, found["acceptance"])
            texts: dict[str, list[str]] = {}
            if self.n_own:
                for name, seed in (("greedy", None), ("own", self.seed)):
                    more, texts[name] = self._own_text(model, name, seed)
                    found |= more
            if self.tasks:
                answers = answer_tasks(model, self.pair, self.tasks)
                found["tasks"] = _mean([is_right(t, a) for t, a in zip(self.tasks, answers, strict=True)])
                found["tasks_chosen"] = chosen_right(model, self.pair, self.tasks)
                texts["tasks"] = answers[:3]
        finally:
            student.train(was_training)
        return found, {"prompts": by_prompt, "texts": texts}

    def teacher_tasks(self) -> float:
        """The teacher's own score on the tasks: the ceiling."""
        return _mean([is_right(t, a) for t, a in zip(self.tasks, self.facts.tasks, strict=True)])

    def _given(self, model: Any) -> tuple[dict[str, float], dict[str, list[float]]]:
        own = torch.cat(hidden_of(model, self.examples))
        rows = measure_rows(own, Head.of(model), self.teacher_hidden, self.head, self.vocabulary)
        found = {name: values.mean().item() for name, values in rows.items()}
        found["acceptance"] = 1.0 - found["tvd"]
        found["agreement"] = found["tar1"]  # the proposal is the teacher's own first choice
        lengths = [len(example.response_ids) for example in self.examples]
        by_prompt = {
            name: [round(part.mean().item(), 4) for part in rows[name].split(lengths)]
            for name in ("divergence", "tvd", "tar5")
        }
        return found, by_prompt

    def _own_text(self, model: Any, name: str, seed: int | None) -> tuple[dict[str, float], list[str]]:
        part = self.examples[: self.n_own]
        written = write(model, self.pair, [example.prompt_ids for example in part], self.longest, seed)
        texts = [replace(example, response_ids=ids) for example, ids in zip(part, written, strict=True)]
        tokens = torch.tensor([token for text in texts for token in text.response_ids])
        rows = measure_rows(
            torch.cat(hidden_of(model, texts)),
            Head.of(model),
            torch.cat(hidden_of(self.pair.teacher, texts)),
            self.head,
            self.vocabulary,
            tokens,
        )
        ends = set(stops_of(self.pair))
        found = {
            f"{name}_reverse_kl": rows["reverse_kl"].mean().item(),
            f"{name}_teacher_nats": rows["teacher_nats"].mean().item(),
            f"{name}_tar5": rows["tar5"].mean().item(),
            f"{name}_repetition": _mean([repetition(text.response_ids) for text in texts]),
            f"{name}_length": _mean([len(text.response_ids) for text in texts]),
            f"{name}_ends": _mean([text.response_ids[-1] in ends for text in texts]),
        }
        decoded = [self.pair.tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
        if seed is None and self.facts.greedy:
            theirs = [self.pair.tokenizer.decode(ids, skip_special_tokens=True) for ids in self.facts.greedy]
            found["rouge_l"] = _mean([rouge_l(*both) for both in zip(theirs, decoded, strict=False)])
        return found, decoded[:3]

    def _as_draft(self, model: Any, acceptance: float) -> dict[str, float]:
        found = {"block_efficiency_sampled": expected_block(acceptance, DRAFT_LENGTH)}
        if self.paths_hidden is not None:
            own = torch.cat(hidden_of(model, self.paths))
            rows = measure_rows(own, Head.of(model), self.paths_hidden, self.head, self.vocabulary)
            agreed = rows["tar1"].bool().split([len(path.response_ids) for path in self.paths])
            rounds = sum(greedy_rounds(flags.tolist(), DRAFT_LENGTH) for flags in agreed)
            found["block_efficiency_greedy"] = sum(len(flags) for flags in agreed) / rounds
        return found


def stops_of(pair: Pair) -> list[int]:
    """The tokens that end an answer of this pair."""
    from speckd.conversations import stop_token_ids

    return stop_token_ids(pair.teacher, pair.tokenizer)


def merged_copy(student: Any) -> Any:
    """A student with its adapter put into its own matrices, as a copy: it answers faster, and the student stays."""
    if not hasattr(student, "merge_and_unload"):
        return student
    return copy.deepcopy(student).merge_and_unload().eval()


def expected_block(acceptance: float, length: int) -> float:
    """Tokens a round of speculative decoding yields, where each drafted token passes with one chance of its own.

    (1 - a^(g+1)) / (1 - a), between 1 and g + 1.
    Source: Leviathan et al. (arXiv 2211.17192).
    """
    if acceptance >= 1.0:
        return length + 1.0
    return (1.0 - acceptance ** (length + 1)) / (1.0 - acceptance)


def greedy_rounds(agreed: Sequence[bool], length: int) -> int:
    """Rounds that greedy speculative decoding needs for a text of the teacher's, exactly.

    Args:
        agreed: at each token, whether the student would have proposed it.
        length: drafted tokens a round.
    """
    rounds, place = 0, 0
    while place < len(agreed):
        passed = 0
        while passed < length and place + passed < len(agreed) and agreed[place + passed]:
            passed += 1
        place += passed + 1  # the teacher's own token comes with each round
        rounds += 1
    return max(1, rounds)


def repetition(ids: Sequence[int], n: int = 3) -> float:
    """Share of a text's n-grams that stood in it before: 0 where all differ."""
    grams = [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]
    return 1.0 - len(Counter(grams)) / len(grams) if grams else 0.0


# --- the training itself ------------------------------------------------------------------------------------------


def steadiness(rows: Sequence[dict[str, Any]], settle: int = 5) -> dict[str, float]:
    """How steady a training was, from its log.

    Args:
        rows: the log's rows, training steps and evaluations mixed.
        settle: first steps that are left out, while the rate rises.
    Returns:
        grad_norm_mean, grad_norm_spread: mean, and standard deviation over mean. largest_jump: largest rise between
        two neighbouring held-out divergences, in nats, 0 where it only fell. train_divergence, train_tar: means over
        the last quarter of the steps. kept_weight: mean share of the divergence that the gate left.
    """
    steps = [row for row in rows if "loss" in row and row.get("grad_norm") is not None]
    norms = [float(row["grad_norm"]) for row in steps[settle:] or steps]
    curve = [row["eval_divergence"] for row in rows if "eval_divergence" in row]
    jumps = [after - before for before, after in itertools.pairwise(curve)]
    found = {"largest_jump": max([0.0, *jumps])}
    if norms and (mean := statistics.fmean(norms)) > 0:
        found |= {"grad_norm_mean": mean, "grad_norm_spread": statistics.pstdev(norms) / mean}
    last = steps[-max(1, len(steps) // 4) :]
    for name, column in (("train_divergence", "divergence"), ("train_tar", "tar")):
        values = [row[column] for row in last if row.get(column) is not None]
        if values:
            found[name] = statistics.fmean(values)
    masked = [row["masked_share"] for row in steps if row.get("masked_share") is not None]
    if masked:
        found["kept_weight"] = 1.0 - statistics.fmean(masked)
    return found


def _mean(values: Sequence[float | bool]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
