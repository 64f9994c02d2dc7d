"""What one call of ``speckd.decode`` asks for, checked before any model is run."""

import math
from dataclasses import dataclass

from speckd.decoding.draft_named import check_draft
from speckd.decoding.policies import Policy, policy_from_text
from speckd.pairs import Pair


@dataclass
class Request:
    """What one call asks for, checked: see ``decode``."""

    prompt: str
    draft: str
    policy: Policy
    max_new_tokens: int
    do_sample: bool
    temperature: float
    seed: int
    lenience: float


def check_decode(
    prompt: str,
    draft: str,
    policy: str | Policy | None,
    max_new_tokens: int,
    do_sample: bool,
    temperature: float,
    seed: int,
    lenience: float = 1.0,
) -> Request:
    """Check what ``decode`` is asked for before any model is run.

    Raises:
        ValueError: an argument makes no sense; the message is one sentence that says what to do.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("The prompt is empty. Write a question or an instruction.")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("The prompt holds half a character (a lone surrogate). Remove it.") from None
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens!r}: choose a whole number, 1 or more.")
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature is {temperature!r}: choose a number above 0. For greedy text use do_sample=False."
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed!r}: choose a whole number from 0 to 2**63 - 1.")
    if isinstance(lenience, bool) or not isinstance(lenience, int | float) or not 0 < lenience <= 1:
        raise ValueError(f"lenience is {lenience!r}: choose a number above 0 and up to 1, which is lossless.")
    if policy is None:
        policy = "none" if draft == "none" else "fixed" if draft.startswith("hispec") else "cost"
    chosen = policy if isinstance(policy, Policy) else policy_from_text(policy)
    check_draft(draft, chosen, do_sample)
    return Request(prompt, draft, chosen, max_new_tokens, bool(do_sample), float(temperature), seed, float(lenience))


def room_of(pair: Pair, n_prompt: int, max_new_tokens: int) -> int:
    """How many tokens may be written: what was asked for, or what the models' context leaves.

    Raises:
        ValueError: it leaves nothing.
    """
    lengths = [getattr(model.config, "max_position_embeddings", None) for model in (pair.teacher, pair.student)]
    limit = min((length for length in lengths if length), default=2**31)
    if n_prompt + 1 > limit:
        raise ValueError(f"The prompt is {n_prompt} tokens long; these models read at most {limit}. Shorten it.")
    return min(max_new_tokens, limit - n_prompt)
