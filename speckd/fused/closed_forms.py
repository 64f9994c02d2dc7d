"""A few rows of logits of both models: each divergence with its gradient in closed form, and the gates' scores.

Letters of the papers: p is the teacher's distribution, q the student's, z the student's logits, m a mixture.

For a divergence with dD/dq(v) = f(v), the softmax gives dD/dz(v) = q(v) [f(v) - E_q f]. So:

    forward KL          q - p
    reverse KL          q [r - E_q r],                        r = log q - log p
    JSD_b               (1 - b) q [r - E_q r],                r = log q - log m,   m = b p + (1 - b) q
    skew KL             (1 - a) q [E_q s - s],                s = p / m,           m = a p + (1 - a) q
    skew reverse KL     q [r - E_q r],                        r = log s - a s,     s = q / m,  m = (1 - a) p + a q
    total variation     1/2 q [r - E_q r],                    r = sign(q - p)

Everything works in place on buffers that a caller lends, and leaves rows unnormalised where a factor a row can say so
later: on a CPU each pass over (N, V) that is not made counts.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from speckd.divergences import entropy
from speckd.draws import Draws, draw_tokens
from speckd.gates import Gate, SpecK, TopK
from speckd.ranks import argmax_from, block_maxima, topk_threshold_up_to

SAFE_MAXIMA = (-20.0, 40.0)  # where the largest logit of a row lies here, exp needs no shift, in float32 either


class LogitBlock:
    """Logits of a few rows, with what every divergence and every gate needs of them computed once.

    Args:
        teacher, student: (n, V) logits after scale, soft cap and temperature. They are overwritten.
        teacher_exp, student_exp: (n, V) room for exp of them.
    """

    def __init__(self, teacher: Tensor, student: Tensor, teacher_exp: Tensor, student_exp: Tensor) -> None:
        self.teacher, self.student = teacher, student
        self.teacher_maxima, self.student_maxima = _moderate(teacher), _moderate(student)  # (n, blocks)
        self.teacher_exp = torch.exp(teacher, out=teacher_exp)
        self.student_exp = torch.exp(student, out=student_exp)
        self.teacher_sum = teacher_exp.sum(-1, keepdim=True)  # (n, 1)
        self.student_sum = student_exp.sum(-1, keepdim=True)

    @property
    def teacher_logsum(self) -> Tensor:
        return self.teacher_sum.log()

    @property
    def student_logsum(self) -> Tensor:
        return self.student_sum.log()

    def teacher_entropy(self) -> Tensor:
        """(n,) nats."""
        return _entropy(self.teacher_exp, self.teacher, self.teacher_sum)

    def student_entropy(self) -> Tensor:
        """(n,) nats."""
        return _entropy(self.student_exp, self.student, self.student_sum)

    def acceptance_probability(self) -> Tensor:
        """(n,) 1 - TVD(p, q)."""
        difference = torch.addcmul(self.teacher_exp, self.student_exp, self.teacher_sum / self.student_sum, value=-1)
        return 1.0 - _absolute_sum(difference) / (2.0 * self.teacher_sum[:, 0])

    def student_argmax(self) -> Tensor:
        """(n, 1) int64, the student's proposal."""
        return argmax_from(self.student, self.student_maxima)

    def agreement(self) -> Tensor:
        """(n,) bool: both models have the same most probable token."""
        return (self.student_argmax() == argmax_from(self.teacher, self.teacher_maxima)).squeeze(-1)

    def scores(self, gate: Gate, uniforms: Tensor | None, reference: Tensor | None) -> Tensor:
        """(n,) the gate's score of each row, the same as ``gate.score``, by a shorter way where there is one.

        Args:
            gate: any; one that overrides ``score`` is asked itself.
            uniforms: (n, n_draws, 2) where the gate draws.
            reference: (n, V) logits of a third model where the gate needs one.
        """
        if not gate.reads_logprobs:  # its verdict lies in the coins alone, or nowhere
            return gate.score(self.teacher, self.student, uniforms)
        if gate.column == "student_entropy":
            return self.student_entropy()
        if gate.column == "teacher_entropy":
            return self.teacher_entropy()
        if gate.column == "topk_threshold":
            assert isinstance(gate, TopK)
            return topk_threshold_up_to(gate.k, self.teacher, self.teacher_maxima, self.student_argmax())
        if gate.column == "speck_threshold":
            assert isinstance(gate, SpecK) and uniforms is not None
            return self._speck_threshold(uniforms[:, : gate.k].to(self.student.device))
        more = {"reference_logprobs": reference.log_softmax(-1)} if reference is not None else {}
        return gate.score(self.teacher - self.teacher_logsum, self.student - self.student_logsum, uniforms, **more)

    def _speck_threshold(self, uniforms: Tensor) -> Tensor:
        token_ids = draw_tokens(self.student_exp, uniforms[..., 0])  # (n, k)
        teacher_logprobs = self.teacher.gather(-1, token_ids) - self.teacher_logsum
        student_logprobs = self.student.gather(-1, token_ids) - self.student_logsum
        acceptance = (teacher_logprobs - student_logprobs).clamp(max=0.0).exp()
        return Draws(token_ids, acceptance.float(), uniforms[..., 1].float()).threshold()

    def divergence(self, name: str, mixture: float, with_gradient: bool) -> tuple[Tensor, Tensor]:
        """D of each row, and dD/dz up to a factor a row. This uses the block up: it is the last thing to ask.

        Args:
            name: a name of ``DIVERGENCES``.
            mixture: b of jsd, a of the skew divergences; the others ignore it.
            with_gradient: whether ``student`` shall hold the gradient's rows afterwards.
        Returns:
            (n,) nats, and (n,) factors by which the rows of ``student`` must be multiplied to be dD/dz.
        """
        return getattr(self, f"_{name}")(mixture, with_gradient)

    def gradient_rows(self, name: str, rows: Tensor, out: Tensor) -> None:
        """dD/dz of the chosen rows into ``out`` (m, V), up to the factors that ``divergence`` gave, just before this.

        Forward KL is asked for without its gradient, and takes it here for the chosen rows alone. ``out`` may overlap
        the student's rows from above: rows are chosen in ascending order, and each is read before it is written over.
        """
        if out.device.type != "cpu":
            if name == "forward_kl":
                ratio = (self.teacher_sum / self.student_sum)[rows]
                torch.addcmul(self.teacher_exp[rows], self.student_exp[rows], ratio, value=-1, out=out)
            else:
                out.copy_(self.student[rows])
            return
        # Neighbours together, else row by row: nothing is gathered, and each is written once, where it stays.
        if name == "forward_kl":
            ratio = self.teacher_sum / self.student_sum
            for start, stop, first in _runs(rows.tolist()):
                run = slice(first, first + stop - start)
                terms = self.teacher_exp[run], self.student_exp[run], ratio[run]
                torch.addcmul(*terms, value=-1, out=out[start:stop])
        else:
            for place, row in zip(out.unbind(), rows.tolist(), strict=True):
                place.copy_(self.student[row])

    def _forward_kl(self, _: float, with_gradient: bool) -> tuple[Tensor, Tensor]:
        gap = torch.sub(self.teacher, self.student, out=self.student)
        distance = _expected(self.teacher_exp, gap) / self.teacher_sum - self.teacher_logsum + self.student_logsum
        if with_gradient:  # sum_p (p - q)
            ratio = self.teacher_sum / self.student_sum
            torch.addcmul(self.teacher_exp, self.student_exp, ratio, value=-1, out=self.student)
        return distance[:, 0], -1.0 / self.teacher_sum[:, 0]

    def _reverse_kl(self, _: float, with_gradient: bool) -> tuple[Tensor, Tensor]:
        gap = self.student.sub_(self.teacher)
        mean_gap = _expected(self.student_exp, gap) / self.student_sum
        if with_gradient:
            gap.sub_(mean_gap).mul_(self.student_exp)
        return (mean_gap - self.student_logsum + self.teacher_logsum)[:, 0], 1.0 / self.student_sum[:, 0]

    def _jsd(self, teacher_weight: float, with_gradient: bool) -> tuple[Tensor, Tensor]:
        p, q = self._normalised()
        m = _mix(p, q, teacher_weight, out=self.teacher)
        student_log_ratio = _safe_log(torch.div(q, m, out=self.student))
        teacher_log_ratio = _safe_log(torch.div(p, m, out=self.teacher))
        teacher_part, student_part = _row_dots(p, teacher_log_ratio), _row_dots(q, student_log_ratio)
        if with_gradient:
            student_log_ratio.sub_(student_part).mul_(q)
        distance = teacher_weight * teacher_part + (1.0 - teacher_weight) * student_part
        return distance[:, 0], torch.full_like(distance[:, 0], 1.0 - teacher_weight)

    def _skew_kl(self, skew: float, with_gradient: bool) -> tuple[Tensor, Tensor]:
        p, q = self._normalised()
        ratio = torch.div(p, _mix(p, q, skew, out=self.teacher), out=self.teacher)
        if with_gradient:
            torch.sub(_row_dots(q, ratio), ratio, out=self.student).mul_(q)
        distance = _row_dots(p, _safe_log(ratio))[:, 0]
        return distance, torch.full_like(distance, 1.0 - skew)

    def _skew_reverse_kl(self, skew: float, with_gradient: bool) -> tuple[Tensor, Tensor]:
        p, q = self._normalised()
        ratio = torch.div(q, _mix(q, p, skew, out=self.teacher), out=self.teacher)
        log_ratio = _safe_log(self.student.copy_(ratio))
        distance = _row_dots(q, log_ratio)
        if with_gradient:
            mean = distance - skew * _row_dots(q, ratio)
            log_ratio.sub_(ratio, alpha=skew).sub_(mean).mul_(q)
        return distance[:, 0], torch.ones_like(distance[:, 0])

    def _tvd(self, _: float, with_gradient: bool) -> tuple[Tensor, Tensor]:
        p, q = self._normalised()
        difference = torch.sub(q, p, out=self.student)
        distance = 0.5 * _absolute_sum(difference)
        if with_gradient:
            signs = difference.sign_()
            signs.sub_(_row_dots(q, signs)).mul_(q)
        return distance, torch.full_like(distance, 0.5)

    def _normalised(self) -> tuple[Tensor, Tensor]:
        """p and q themselves, in place of the two exponentials."""
        return self.teacher_exp.div_(self.teacher_sum), self.student_exp.div_(self.student_sum)


def _moderate(logits: Tensor) -> Tensor:
    """Shift the rows, in place, where exp could leave float32's range; returns the block maxima of what is left."""
    maxima = block_maxima(logits)
    top = maxima.amax(-1, keepdim=True)  # (n, 1)
    if logits.device.type == "cpu":  # elsewhere asking would wait for the device, and costs more than the shift
        low, high = top.aminmax()
        if SAFE_MAXIMA[0] < low.item() and high.item() < SAFE_MAXIMA[1]:
            return maxima
    logits.sub_(top)
    return maxima.sub_(top)


def _runs(rows: list[int]) -> Iterator[tuple[int, int, int]]:
    """Where neighbours lie side by side: from and to which place of the list, and the row at its start."""
    start = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or rows[place] != rows[place - 1] + 1:
            yield start, place, rows[start]
            start = place


def _mix(first: Tensor, second: Tensor, weight_of_first: float, out: Tensor) -> Tensor:
    """w first + (1 - w) second, never 0: where both underflow, any denominator gives the 0 that is meant."""
    torch.mul(first, weight_of_first, out=out)
    return out.add_(second, alpha=1.0 - weight_of_first).clamp_(min=torch.finfo(out.dtype).tiny)


def _safe_log(ratios: Tensor) -> Tensor:
    """log in place, finite at 0, where its probability of 0 makes the product 0."""
    return ratios.clamp_(min=torch.finfo(ratios.dtype).tiny).log_()


def _row_dots(first: Tensor, second: Tensor) -> Tensor:
    """(n, 1): sum_v first * second of each row."""
    if first.device.type == "cpu":  # one BLAS call a row reads once and writes nothing; a broadcast product does
        dots = [torch.dot(a, b) for a, b in zip(first.unbind(), second.unbind(), strict=True)]
        return torch.stack(dots)[:, None] if dots else first.new_zeros(0, 1)
    return torch.linalg.vecdot(first, second)[:, None]


def _expected(weights: Tensor, values: Tensor) -> Tensor:
    """Row dots where a weight of 0 counts as 0 even against an infinite value; such values are set to 0."""
    dots = _row_dots(weights, values)
    if not torch.isfinite(dots).all():
        dots = _row_dots(weights, values.masked_fill_(weights == 0, 0.0))
    return dots


def _entropy(exp: Tensor, logits: Tensor, total: Tensor) -> Tensor:
    values = total.log() - _row_dots(exp, logits) / total
    if not torch.isfinite(values).all():  # a token of probability 0, by a logit of -inf
        return entropy(logits - total.log())
    return values[:, 0]


def _absolute_sum(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values, 1, dim=-1)
