"""How good a student is on held-out text: divergence, TAR, acceptance probability, agreement, ROUGE-L.

Every figure but ROUGE-L is a mean over the response tokens of given answers (the teacher's, as a rule), so two students
are compared on the very same rows.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from speckd.data import Example, collate
from speckd.gated_student import FACTS, GatedStudent
from speckd.gates import DEFAULT_K, AllOpen
from speckd.heads import positions_of
from speckd.pairs import check_ids
from speckd.rollouts import Sampling, generate


@dataclass(frozen=True)
class Scores:
    """A student's held-out figures.

    Attributes:
        n_examples, n_tokens: how much text they are from.
        divergence: mean D(teacher, student) per response token, in nats, no gate.
        tar: share of response tokens where the student's proposal is among the teacher's k most probable.
        acceptance: mean chance that one random draw from the student is accepted, 1 - TVD.
        agreement: share of response tokens where both have the same most probable next token.
        teacher_entropy, student_entropy: mean entropy of the next-token distributions, in nats.
        rouge_l: mean ROUGE-L F1 of the student's greedy answers against the teacher's; None where not measured.
        k: of ``tar``. divergence_name: which divergence.
    """

    n_examples: int
    n_tokens: int
    divergence: float
    tar: float
    acceptance: float
    agreement: float
    teacher_entropy: float
    student_entropy: float
    rouge_l: float | None = None
    k: int = DEFAULT_K
    divergence_name: str = "forward_kl"

    @classmethod
    def of(cls, facts: Tensor, k: int, divergence_name: str, rouge_l: float | None = None) -> "Scores":
        """From the (B, F) sums of all examples."""
        total = dict(zip(FACTS, facts.sum(0).tolist(), strict=True))
        n = total["n_tokens"] or float("nan")
        return cls(
            n_examples=len(facts),
            n_tokens=int(total["n_tokens"]),
            divergence=total["divergence"] / n,
            tar=total["accepted"] / n,
            acceptance=total["acceptance"] / n,
            agreement=total["agreement"] / n,
            teacher_entropy=total["teacher_entropy"] / n,
            student_entropy=total["student_entropy"] / n,
            rouge_l=rouge_l,
            k=k,
            divergence_name=divergence_name,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate_pair(
    pair: Any,
    examples: Sequence[Example],
    *,
    k: int = DEFAULT_K,
    divergence: str = "forward_kl",
    temperature: float = 1.0,
    batch_size: int = 8,
    teacher_cache: Any | None = None,
    n_rouge: int = 0,
    max_new_tokens: int = 128,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score a pair's student on given answers.

    Args:
        pair: from ``load_pair``.
        examples: prompts with responses, from ``read_examples``.
        k: of TAR. divergence, temperature: as in training.
        teacher_cache: saves the teacher's pass where it holds the examples.
        n_rouge: how many of the prompts both models answer greedily, for ROUGE-L; 0 for none.
        max_new_tokens: longest of those answers.
        on_progress: called with (examples done, examples in all).
    Returns:
        Scores.
    """
    facts = facts_of(
        pair,
        examples,
        k=k,
        divergence=divergence,
        temperature=temperature,
        batch_size=batch_size,
        teacher_cache=teacher_cache,
        on_progress=on_progress,
    )
    rouge = rouge_of_answers(pair, examples[:n_rouge], max_new_tokens, batch_size) if n_rouge else None
    return Scores.of(facts, k, divergence, rouge)


def facts_of(
    pair: Any,
    examples: Sequence[Example],
    *,
    k: int = DEFAULT_K,
    divergence: str = "forward_kl",
    temperature: float = 1.0,
    batch_size: int = 8,
    teacher_cache: Any | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """What ``evaluate_pair`` adds up, example by example, so that two students can be compared on the same prompts.

    Args:
        as there.
    Returns:
        (B, F) float64 in the examples' order: the sums over an example's response tokens, in the columns FACTS.
    """
    check_lengths(pair, examples)
    scorer = GatedStudent(pair.student, pair.teacher, AllOpen(), divergence, temperature, eval_k=k).eval()
    facts = torch.zeros(len(examples), len(FACTS), dtype=torch.float64)
    order = sorted(range(len(examples)), key=lambda index: -len(examples[index].response_ids))
    for start in range(0, len(order), batch_size):
        part = [examples[index] for index in order[start : start + batch_size]]
        batch = batch_of(part, teacher_cache, pair.tokenizer.pad_token_id or 0)
        with torch.no_grad():
            facts[order[start : start + len(part)]] = scorer(**to_device(batch, pair.device))["facts"].cpu()
        if on_progress is not None:
            on_progress(start + len(part), len(order))
    return facts


def difference(facts: Tensor, others: Tensor, figure: str, n_draws: int = 2000, seed: int = 0) -> tuple[float, ...]:
    """How much a student's figure lies above another's on the same examples.

    Args:
        facts, others: (B, F) of both, from ``facts_of`` with the same examples.
        figure: one of FACTS but n_tokens.
    Returns:
        difference of the means over response tokens, and its 95% interval: percentiles over resamples of the examples.
    """
    count, column = facts[:, FACTS.index("n_tokens")], FACTS.index(figure)
    gain = facts[:, column] - others[:, column]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(facts), (n_draws, len(facts)), generator=generator)
    means = gain[drawn].sum(1) / count[drawn].sum(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return (gain.sum() / count.sum()).item(), low, high


def check_lengths(pair: Any, examples: Sequence[Example]) -> None:
    """Refuse texts that are longer than a model of the pair has positions for.

    Raises:
        ValueError: with the line, its length and the limit.
    """
    limits = {"teacher": positions_of(pair.teacher), "student": positions_of(pair.student)}
    who = min(limits, key=lambda name: limits[name])
    for example in examples:
        check_ids(pair, example.prompt_ids + example.response_ids, f"line {example.number}")
        length = len(example.prompt_ids) + len(example.response_ids)
        if length > limits[who]:
            raise ValueError(
                f"line {example.number} is {length:,} tokens long, and the {who} reads at most {limits[who]:,}: choose "
                f"a max_length of {limits[who]:,} or less."
            )


def batch_of(examples: Sequence[Example], teacher_cache: Any | None, pad_id: int) -> dict[str, Any]:
    """A batch of examples, with what a cache holds of the teacher."""
    return collate(
        [
            {
                "input_ids": example.prompt_ids + example.response_ids,
                "n_prompt": len(example.prompt_ids),
                "trained": example.trained,
                "number": example.number,
                "teacher_hidden": teacher_cache.rows(example)
                if teacher_cache is not None and example in teacher_cache
                else None,
            }
            for example in examples
        ],
        pad_id,
    )


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


# --- ROUGE-L ------------------------------------------------------------------------------------------------------


def rouge_l(reference: str, answer: str) -> float:
    """ROUGE-L F1 of an answer: how long a subsequence of words the two share, 0 (none) to 1 (the same words in order).

    Words are runs of letters and digits of any script, in lower case and without stemming; where a script sets no space
    between words (Chinese, Japanese, Thai, ...) each character counts as one. Of English text the figures are those of
    Google's rouge_score with use_stemmer=False, which knows only a to z and 0 to 9 and finds nothing in common in two
    equal Russian texts. That package is not used: it brings NLTK along for these lines.

    Source: Lin 2004.
    """
    first, second = words_in(reference), words_in(answer)
    if not first and not second:  # signs alone, such as emoji
        return float(reference.split() == answer.split() and not reference.isascii())
    if not first or not second:
        return 0.0
    longest = _longest_common_subsequence(first, second)
    precision, recall = longest / len(second), longest / len(first)
    return 2 * precision * recall / (precision + recall) if longest else 0.0


_UNSPACED = (  # scripts without spaces between words
    *("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "YI SYLLABLE", "THAI", "LAO", "KHMER", "MYANMAR"),
    *("JAVANESE", "BALINESE", "TAI "),
)


_JOINERS = "\u200c\u200d"  # write the letters of one word together or apart (Persian, Hindi)


def words_in(text: str) -> list[str]:
    """The words of a text in lower case. Vowel signs and accents belong to their letter."""
    words: list[str] = []
    word, after_alone = "", False
    for letter in unicodedata.normalize("NFC", text.lower()):
        if letter in _JOINERS:
            continue
        kind = unicodedata.category(letter)[0]
        alone = kind == "L" and not letter.isascii() and unicodedata.name(letter, "").startswith(_UNSPACED)
        if kind == "M" and after_alone:
            words[-1] += letter
            continue
        if (alone or kind not in "LNM") and word:
            words.append(word)
            word = ""
        if alone:
            words.append(letter)
        elif kind in "LN" or (kind == "M" and word):
            word += letter
        after_alone = alone
    return [*words, word] if word else words


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for place, other in enumerate(second, start=1):
            above = row[place]
            row[place] = diagonal + 1 if word == other else max(above, row[place - 1])
            diagonal = above
    return row[-1]


def greedy_answers(
    model: Any, tokenizer: Any, examples: Sequence[Example], max_new_tokens: int, batch_size: int = 8
) -> list[str]:
    """The model's greedy answers to the prompts of some examples, as text."""
    texts = [""] * len(examples)
    prompts = [example.prompt_ids for example in examples]
    for index, answer in generate(
        model, tokenizer, prompts, Sampling(max_new_tokens=max_new_tokens), batch_size=batch_size
    ):
        texts[index] = tokenizer.decode(answer.response_ids, skip_special_tokens=True)
    return texts


def rouge_of_answers(
    pair: Any,
    examples: Sequence[Example],
    max_new_tokens: int,
    batch_size: int = 8,
    references: Sequence[str] | None = None,
) -> float:
    """Mean ROUGE-L of the student's greedy answers against the teacher's; the latter are made where none are given."""
    if references is None:
        references = greedy_answers(pair.teacher, pair.tokenizer, examples, max_new_tokens, batch_size)
    answers = greedy_answers(pair.student, pair.tokenizer, examples, max_new_tokens, batch_size)
    return sum(rouge_l(*texts) for texts in zip(references, answers, strict=True)) / max(1, len(examples))
