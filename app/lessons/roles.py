"""The tokens of a text that have a part to play in a lesson. Each role is a condition and a preference.

A lesson names a token by its role ("sure_miss"), never by its number. A role's function returns None for a token that
does not meet its condition, and a key for one that does; the smallest key has the role. So what a lesson says of a
token is true of it in any text, and a text without such a token has no such step.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

USUAL_K = 5  # the k that roles go by: the paper's default
K_MAX = 50
BYTES = re.compile(r"<[0-9A-F]{2}(?: [0-9A-F]{2})*>")  # a part of a character, as a Trace writes it
SURE = 0.7  # a sure teacher gives its favourite at least this much
SPREAD = 0.3  # and an unsure one not more than this


@dataclass(frozen=True)
class Row:
    """One response token with all that roles ask about. Probabilities 0 to 1, entropies and divergences in nats.

    Attributes:
        rank: the proposal's place in the teacher's order, draw: the first draw that passes (51: none of fifty).
        p, q: what teacher and student give to the proposal; favourite_p, favourite_q: to the teacher's favourite.
        mean_forward, mean_entropy: over the whole text, for "heavy" and "unsure".
        keeps: how many tokens the gate keeps at the usual k; entropy_place: this token's under student entropy.
    """

    t: int
    token: str
    proposal: str
    favourite: str
    rank: int
    draw: int
    p: float
    q: float
    passes: float
    favourite_p: float
    favourite_q: float
    own_rank: int
    teacher_entropy: float
    student_entropy: float
    tvd: float
    forward: float
    reverse: float
    mean_forward: float
    mean_entropy: float
    keeps: int
    entropy_place: int
    answer: str | None

    @property
    def sure(self) -> bool:
        """The teacher is sure: one token has most of its belief."""
        return self.favourite_p >= SURE and self.teacher_entropy < self.mean_entropy

    @property
    def unsure(self) -> bool:
        """The teacher is unsure: more than over the whole text, and no token has much of its belief."""
        return self.favourite_p <= SPREAD and self.teacher_entropy > self.mean_entropy

    @property
    def heavy(self) -> bool:
        """It carries clearly more than its part of the plain loss."""
        return self.forward >= 1.1 * self.mean_forward

    @property
    def differs(self) -> bool:
        """Proposal and favourite are two words, not one word with and without a space or a capital."""
        return looks(self.proposal) != looks(self.favourite)


def looks(text: str) -> str:
    """What a reader takes a token for."""
    return text.strip().casefold()


def readable(text: str) -> bool:
    """Whether a token can be quoted: it shows something, and is not a part of a character or a control token."""
    in_parts = "\ufffd" in text or BYTES.search(text)
    return bool(text.strip()) and not in_parts and not text.startswith(("<|", "#"))


Role = Callable[[Row], Any]
ROLES: dict[str, Role] = {}


def role(rule: Role) -> Role:
    ROLES[rule.__name__] = rule
    return rule


@role
def first(r: Row) -> Any:
    """The first token of the text."""
    return r.t


@role
def most_loss(r: Row) -> Any:
    """The largest forward KL of all."""
    return -r.forward


@role
def middling_loss(r: Row) -> Any:
    """Forward KL nearest to the mean, and within a fifth of it."""
    off = abs(r.forward - r.mean_forward)
    return off if off <= 0.2 * r.mean_forward else None


@role
def unsure(r: Row) -> Any:
    """The teacher's entropy is the largest, and its list is flat."""
    return -r.teacher_entropy if r.unsure and r.differs else None


@role
def sure_together(r: Row) -> Any:
    """Both models are sure of the same token: the two lists nearest to one another."""
    return r.tvd if r.sure and r.rank == 1 and r.favourite_q >= SURE else None


@role
def sure_miss(r: Row) -> Any:
    """The teacher is sure, the student knows nothing of it: rejected, heavy, and the student's list is the flatter.

    The text says what the teacher means, so the words around it make sense to a reader."""
    knows = r.sure and r.heavy and r.own_rank == 1 and r.differs
    misses = r.rank > USUAL_K and r.favourite_q < 0.1 and r.student_entropy > r.teacher_entropy + 0.5
    return r.teacher_entropy if knows and misses else None


@role
def heavy_unsure(r: Row) -> Any:
    """Heavy although the teacher itself is unsure."""
    return -r.teacher_entropy if r.heavy and r.teacher_entropy > 1.1 * r.mean_entropy and r.favourite_p < 0.5 else None


@role
def second(r: Row) -> Any:
    """The proposal is the teacher's second choice and not what the text says; of these the student's surest."""
    return -r.q if r.rank == 2 and r.differs and looks(r.proposal) != looks(r.token) else None


@role
def near_miss(r: Row) -> Any:
    """Rejected at the usual k by few places, so that it still stands on the teacher's list of ten."""
    return r.rank if USUAL_K < r.rank <= 10 and r.differs else None


@role
def far_miss(r: Row) -> Any:
    """The proposal that the teacher ranks last of all, beyond any k of the slider."""
    return -r.rank if r.rank > K_MAX and r.differs else None


@role
def own_word(r: Row) -> Any:
    """The student proposes what the text says; the teacher is surest of another word and ranks it below the usual k."""
    same = r.own_rank == r.rank and looks(r.proposal) == looks(r.token)
    return -r.favourite_p if r.rank > USUAL_K and same and r.differs else None


@role
def other_word(r: Row) -> Any:
    """Accepted at the usual k, though the text says another word: its token is not what the gate looks at."""
    fits = 1 < r.rank <= USUAL_K and r.differs and looks(r.proposal) != looks(r.token)
    return -r.q if fits else None


@role
def late_coin(r: Row) -> Any:
    """The first two draws fail, a later one among the usual k passes; the chance of one draw near one in four."""
    return abs(r.tvd - 0.75) if 3 <= r.draw <= USUAL_K and 0.15 <= 1 - r.tvd <= 0.45 else None


@role
def early_coin(r: Row) -> Any:
    """Luck: the first draw passes although its chance is small."""
    return -r.tvd if r.draw == 1 and r.tvd >= 0.7 else None


@role
def close(r: Row) -> Any:
    """The two lists overlap well and the first draw passes: no luck was needed."""
    return r.tvd if r.draw == 1 and 0.1 <= r.tvd <= 0.35 else None


@role
def lucky(r: Row) -> Any:
    """Rejected by Top-k and accepted by Spec-k at the usual k; the worst rank."""
    return -r.rank if r.rank > USUAL_K and r.draw <= USUAL_K and r.differs else None


@role
def unlucky(r: Row) -> Any:
    """Accepted by Top-k and rejected by Spec-k at the usual k; the latest passing draw."""
    return -r.draw if r.rank <= USUAL_K < r.draw else None


@role
def half_open(r: Row) -> Any:
    """One draw passes with a chance near one half."""
    return abs(r.tvd - 0.5) if abs(r.tvd - 0.5) <= 0.12 else None


@role
def torn(r: Row) -> Any:
    """The teacher has nearly everything on one token, the student scatters: reverse KL is the larger by far."""
    scattered = r.favourite_p >= 0.9 and r.student_entropy >= 2 and r.reverse >= 1.2 * r.forward
    return r.forward - r.reverse if scattered and math.isfinite(r.reverse) else None


@role
def missed(r: Row) -> Any:
    """The teacher's word is almost missing from the student's list: forward KL is the larger by far."""
    gone = r.favourite_p >= 0.5 and r.favourite_q <= 0.02 and r.forward >= 1.2 * r.reverse
    return -r.forward if gone and math.isfinite(r.forward) else None


@role
def hidden_lesson(r: Row) -> Any:
    """Rejected by the gate, kept by the student-entropy selector within the same budget."""
    return r.entropy_place if r.rank > USUAL_K and r.entropy_place <= r.keeps else None


@role
def easy_keep(r: Row) -> Any:
    """Accepted by the gate, dropped by the student-entropy selector."""
    return -r.entropy_place if r.rank <= USUAL_K and r.entropy_place > r.keeps else None


@role
def wrong_digit(r: Row) -> Any:
    """The first digit of the result, where the teacher is sure of a wrong one and the gate accepts the student's."""
    wrong = r.answer is not None and r.token.strip() != r.answer
    return r.t if wrong and r.sure and r.rank <= USUAL_K and r.differs else None
