"""How far the student's next-token distribution is from the teacher's: one pure function each, one number a row.

Letters of the papers: p is the teacher's distribution, q the student's, m their mixture; everything is in nats
(natural logarithms). Every function takes *log*-probabilities and never leaves log space before the last product.

Zeros are defined, not hoped for: a token with p = 0 contributes nothing to an expectation under p, and a token that
only one of the two finds possible makes the KL in that direction infinite, as the definition says.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SKEW = 0.1  # a of DistiLLM's skew divergences
JSD_TEACHER_WEIGHT = 0.5  # b of the generalised Jensen-Shannon divergence


def _check(teacher_logprobs: Tensor, student_logprobs: Tensor) -> None:
    if teacher_logprobs.shape != student_logprobs.shape:
        raise ValueError(
            f"teacher log-probabilities have shape {tuple(teacher_logprobs.shape)}, the student's "
            f"{tuple(student_logprobs.shape)}: a divergence needs one row and one vocabulary for both."
        )


def _expected_log_ratio(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """KL of the first from the second: sum_v exp(a) (a - b), where a probability of 0 contributes 0."""
    terms = logprobs.exp() * (logprobs - other_logprobs)
    return torch.where(logprobs == -torch.inf, 0.0, terms).sum(-1)  # (N,)


def _log_mixture(first: Tensor, second: Tensor, weight_of_first: float) -> Tensor:
    """log(w exp(first) + (1 - w) exp(second)) without leaving log space."""
    log_weight = torch.log(torch.tensor(weight_of_first, dtype=torch.float64)).item()
    log_rest = torch.log1p(torch.tensor(-weight_of_first, dtype=torch.float64)).item()
    return torch.logaddexp(first + log_weight, second + log_rest)


def forward_kl(teacher_logprobs: Tensor, student_logprobs: Tensor) -> Tensor:
    """Forward KL(teacher || student) of each row, in nats.

    KL_t = sum_v p_t(v) [log p_t(v) - log q_t(v)]: large where the student misses what the teacher finds likely.

    Args:
        teacher_logprobs, student_logprobs: (N, V) log-probabilities over one shared vocabulary.
    Returns:
        (N,) in the dtype of the inputs, non-negative up to rounding, 0 where the two agree, inf where q = 0 < p.
    Raises:
        ValueError: the shapes differ.
    Source: Hinton et al. 2015; the default D of SelecTKD (arXiv 2510.24021), eq. for L.
    """
    _check(teacher_logprobs, student_logprobs)
    return _expected_log_ratio(teacher_logprobs, student_logprobs)


def reverse_kl(teacher_logprobs: Tensor, student_logprobs: Tensor) -> Tensor:
    """Reverse KL(student || teacher) of each row, in nats.

    RKL_t = sum_v q_t(v) [log q_t(v) - log p_t(v)]: large where the student believes what the teacher finds unlikely.

    Args:
        teacher_logprobs, student_logprobs: (N, V) log-probabilities over one shared vocabulary.
    Returns:
        (N,), non-negative up to rounding, 0 where the two agree, inf where p = 0 < q.
    Raises:
        ValueError: the shapes differ.
    Source: MiniLLM (arXiv 2306.08543); RKL in SelecTKD.
    """
    _check(teacher_logprobs, student_logprobs)
    return _expected_log_ratio(student_logprobs, teacher_logprobs)


def jsd(teacher_logprobs: Tensor, student_logprobs: Tensor, teacher_weight: float = JSD_TEACHER_WEIGHT) -> Tensor:
    """Generalised Jensen-Shannon divergence of each row, in nats.

    JSD_b = b KL(p || m) + (1 - b) KL(q || m) with m = b p + (1 - b) q. b is the *teacher's* weight, as in TRL.

    Args:
        teacher_logprobs, student_logprobs: (N, V) log-probabilities over one shared vocabulary.
        teacher_weight: b, strictly between 0 and 1.
    Returns:
        (N,), between 0 and the entropy of (b, 1 - b): log 2 for b = 0.5. Always finite.
    Raises:
        ValueError: the shapes differ, or b is not strictly between 0 and 1.
    Source: Agarwal et al., GKD (arXiv 2306.13649).
    """
    _check(teacher_logprobs, student_logprobs)
    if not 0.0 < teacher_weight < 1.0:
        raise ValueError(
            f"teacher_weight is {teacher_weight}: the generalised JSD needs a weight strictly between 0 and 1. "
            "TRL reads 0 and 1 as the two KL divergences; here ask for forward_kl or reverse_kl by name."
        )
    mixture = _log_mixture(teacher_logprobs, student_logprobs, teacher_weight)  # (N, V)
    teacher_part = _expected_log_ratio(teacher_logprobs, mixture)
    student_part = _expected_log_ratio(student_logprobs, mixture)
    return teacher_weight * teacher_part + (1.0 - teacher_weight) * student_part


def skew_kl(teacher_logprobs: Tensor, student_logprobs: Tensor, skew: float = SKEW) -> Tensor:
    """Skew KL of each row, in nats: KL(p || a p + (1 - a) q), forward KL with a little teacher mixed into the student.

    Args:
        teacher_logprobs, student_logprobs: (N, V) log-probabilities over one shared vocabulary.
        skew: a, strictly between 0 and 1; 0.1 in DistiLLM.
    Returns:
        (N,), between 0 and -log a, so always finite.
    Raises:
        ValueError: the shapes differ, or a is not strictly between 0 and 1.
    Source: DistiLLM (arXiv 2402.03898).
    """
    _check(teacher_logprobs, student_logprobs)
    _check_skew(skew)
    return _expected_log_ratio(teacher_logprobs, _log_mixture(teacher_logprobs, student_logprobs, skew))


def skew_reverse_kl(teacher_logprobs: Tensor, student_logprobs: Tensor, skew: float = SKEW) -> Tensor:
    """Skew reverse KL of each row, in nats: KL(q || (1 - a) p + a q).

    Args:
        teacher_logprobs, student_logprobs: (N, V) log-probabilities over one shared vocabulary.
        skew: a, strictly between 0 and 1; 0.1 in DistiLLM.
    Returns:
        (N,), between 0 and -log a, so always finite.
    Raises:
        ValueError: the shapes differ, or a is not strictly between 0 and 1.
    Source: DistiLLM (arXiv 2402.03898).
    """
    _check(teacher_logprobs, student_logprobs)
    _check_skew(skew)
    return _expected_log_ratio(student_logprobs, _log_mixture(student_logprobs, teacher_logprobs, skew))


def _check_skew(skew: float) -> None:
    if not 0.0 < skew < 1.0:
        raise ValueError(f"skew is {skew}: choose a strictly between 0 and 1 (DistiLLM uses 0.1).")


def tvd(teacher_logprobs: Tensor, student_logprobs: Tensor) -> Tensor:
    """Total variation distance of each row: 1/2 sum_v |p(v) - q(v)|, without a unit.

    1 - TVD is the chance that one random draw from the student is accepted by the teacher.

    Args:
        teacher_logprobs, student_logprobs: (N, V) log-probabilities over one shared vocabulary.
    Returns:
        (N,), between 0 (equal) and 1 (no token in common).
    Raises:
        ValueError: the shapes differ.
    Source: Leviathan et al. (arXiv 2211.17192), theorem 3.5; DistillSpec (arXiv 2310.08461).
    """
    _check(teacher_logprobs, student_logprobs)
    return 0.5 * (teacher_logprobs.exp() - student_logprobs.exp()).abs().sum(-1)


def hellinger(teacher_logprobs: Tensor, student_logprobs: Tensor) -> Tensor:
    """Hellinger distance of each row: ||sqrt p - sqrt q||_2 / sqrt 2, without a unit.

    Args:
        teacher_logprobs, student_logprobs: (N, V) log-probabilities over one shared vocabulary.
    Returns:
        (N,), between 0 (equal) and 1 (no token in common).
    Raises:
        ValueError: the shapes differ.
    Source: the weight that SelecTKD turns down; the score of AdaKD (arXiv 2510.11615).
    """
    _check(teacher_logprobs, student_logprobs)
    # The difference of roots, not 1 - sum sqrt(pq): that one loses half the digits where p and q nearly agree.
    difference = (teacher_logprobs / 2).exp() - (student_logprobs / 2).exp()
    return (difference.square().sum(-1) / 2).sqrt()


def entropy(logprobs: Tensor) -> Tensor:
    """Shannon entropy of each row, in nats: -sum_v p(v) log p(v).

    Args:
        logprobs: (N, V) log-probabilities.
    Returns:
        (N,), between 0 (sure of one token) and log V (uniform).
    """
    return -torch.where(logprobs == -torch.inf, 0.0, logprobs.exp() * logprobs).sum(-1)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skew_kl": skew_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "tvd": tvd,
}


def divergence_named(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The divergence of that name, with its paper's default parameters.

    Raises:
        ValueError: there is none of that name; the message lists them.
    """
    try:
        return DIVERGENCES[name]
    except KeyError:
        raise ValueError(f"{name!r} is not a divergence here. Choose one of: {', '.join(DIVERGENCES)}.") from None


def divergence_of_jsd_beta(beta: float) -> tuple[str, float | None]:
    """The name and mixture of TRL's ``beta``: 0 is forward KL, 1 is reverse KL, between them the generalised JSD.

    Args:
        beta: the teacher's weight in the mixture, 0 to 1. (Not the weight of a rejected token, which a gate has.)
    Returns:
        A name of ``DIVERGENCES``, and the mixture that goes with it.
    Raises:
        ValueError: beta is not a number from 0 to 1.
    """
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0.0 <= beta <= 1.0:
        raise ValueError(f"jsd_beta is {beta!r}: choose a number from 0 (forward KL) to 1 (reverse KL).")
    if beta == 0.0:
        return "forward_kl", None
    if beta == 1.0:
        return "reverse_kl", None
    return "jsd", float(beta)
