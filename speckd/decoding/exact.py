"""One text as plain decoding would write it, token for token, by the fastest way there is: for whoever needs answers.

A sampled text is the same for the same seed whether anything drafts or not: plain decoding picks each token by the
inverse of p's cumulative distribution at the answer's own uniform, and a drafted token passes where it *equals* that
pick. (min(1, p/q) with a coin of its own gives p's distribution too, but another text; ``decode`` shows that one.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speckd.decoding.draft_named import fit_draft
from speckd.decoding.drafts import Draft
from speckd.decoding.forward import ModelForward, forward_of, near_tie_of
from speckd.decoding.policies import DynamicDepth, Plain, Policy
from speckd.decoding.rounds import Rounds, Rule
from speckd.decoding.verification import Pick
from speckd.jobs import ShouldStop, Stopped
from speckd.pairs import Pair

# Chosen on development prompts (assets/decode/choices.json): a second row costs about a tenth of a pass, so what the
# layer gives less than a tenth is left out, and it goes deeper while its beams hold more than half.
DRAFT_ON = DynamicDepth(x=-0.6, width=3, n=4, steps=(1, 2, 3), nodes=5, p=0.1)


@dataclass(frozen=True, eq=False)
class Written:
    """What was written.

    Attributes:
        ids: the tokens, with the stop token where it came.
        finished: whether it came.
        hidden: (n, H), the model's last hidden state that predicted each token.
    """

    ids: list[int]
    finished: bool
    hidden: Tensor


def write_exactly(
    model: Any,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    *,
    pick: Pick | None = None,
    near: Callable[[Tensor, int, float], bool] | None = None,
    stops: Sequence[int] = (),
    vocabulary_size: int | None = None,
    draft: Draft | None = None,
    policy: Policy = DRAFT_ON,
    on_tokens: Callable[[list[int]], None] | None = None,
    should_stop: ShouldStop | None = None,
) -> Written:
    """Let a model write one text.

    Args:
        model: a causal language model in evaluation mode; it runs lean where it can.
        prompt_ids: at least one token.
        max_new_tokens: longest text, its stop token included.
        pick: plain decoding's choice, from (V,) logits and the token's place in the text; None is greedy. It is asked
            for drafts too, with the draft's logits: the same uniform on a distribution like p often picks the same.
        near: whether logits that are off by so much might lead ``pick`` to another token: then one row alone decides.
        stops: tokens that end the text.
        vocabulary_size: rows of the head that name tokens; all of them by default.
        draft: what proposes, with nothing read yet, over the whole vocabulary where ``pick`` is given; None decodes
            plainly. See ``draft_for``.
        policy: how far it drafts.
        on_tokens: called with the text so far after each round.
        should_stop: asked before each step; when it turns true, what was written so far is returned.
    Returns:
        The text, the same with every draft and policy.
    Raises:
        ValueError: the prompt has no token, or the model's cache cannot be cut back.
    """
    if not len(prompt_ids):
        raise ValueError("a prompt has no token: give each prompt some text.")
    target = forward_of(model, vocabulary_size)
    if target.dtype not in (torch.float32, torch.float64):
        draft = None  # in 16 bits a pass of several rows rounds otherwise: another text than plain decoding's
    error = -1.0 if draft is None else near_tie_of(target, model)
    guard = None if near is None or error < 0 else lambda logits, place: near(logits, place, error)
    rule = Rule(pick=pick, near=guard, near_tie=-1.0 if pick is not None else error)
    chosen = policy if draft is not None else Plain()
    rounds = Rounds(target, draft, rule, chosen, prompt_ids, max_new_tokens, stops=stops, should_stop=should_stop)
    steps = iter(rounds)
    ids: list[int] = []
    hidden: list[Tensor] = []
    while True:
        try:
            done = next(steps)
        except (StopIteration, Stopped):
            break
        ids += done.output
        hidden.append(done.hidden)
        if on_tokens is not None:
            on_tokens(ids)
    states = torch.cat(hidden) if hidden else torch.zeros((0, target.width), dtype=target.dtype, device=target.device)
    return Written(ids, bool(ids) and ids[-1] in stops, states)


def worth_it(model: Any, vocabulary_size: int | None, draft: Draft | None) -> bool:
    """Whether ``write_exactly`` is faster here than transformers' generate: by a lean forward, or by a draft."""
    try:
        target = forward_of(model, vocabulary_size)
    except (ValueError, AttributeError):  # a cache that cannot be cut back, or no trunk that is known here
        return False
    exact = target.dtype in (torch.float32, torch.float64)
    return exact and (draft is not None or not isinstance(target, ModelForward))


def draft_for(pair: Pair) -> Draft | None:
    """A draft that makes this pair's teacher faster, with nothing read yet, or None where none is known to.

    That is prompt lookup, and where it finds nothing the trained layer, where that was made for this teacher. The
    packaged student costs too much for what passes.
    """
    from speckd.decoding.eagle import find_eagle

    if find_eagle(pair) is None:
        return None
    target = forward_of(pair.teacher, pair.vocabulary_size)
    return fit_draft(pair, "lookup+eagle", target, None, False).draft
