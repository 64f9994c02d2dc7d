"""``speckd.decode``: one text, decoded by drafts and verdicts, with a record of every round.

Nothing here decides what is accepted (verification.py) or in which order things happen (rounds.py): this file puts
teacher, draft and policy together and lets them write. request.py checks what is asked for, recording.py turns rounds
into a record, beside.py and measuring.py run what they are compared with.
"""

from collections.abc import Callable

from speckd.conversations import encode_prompt
from speckd.decoding.beside import PlainBeside, continue_everywhere
from speckd.decoding.costs import Costs
from speckd.decoding.draft_named import fastest_draft, fit_draft
from speckd.decoding.forward import forward_of
from speckd.decoding.measuring import known_costs
from speckd.decoding.policies import Policy
from speckd.decoding.record import DecodeRecord, RoundRecord
from speckd.decoding.recording import Decoding
from speckd.decoding.request import check_decode, room_of
from speckd.jobs import OnProgress, Progress, ShouldStop, Stopped
from speckd.pairs import Pair


class DecodingStopped(Stopped):
    """``should_stop`` turned true. What was decoded before stands in ``record``; None where there was nothing yet."""

    record: DecodeRecord | None = None


def decode(
    pair: Pair,
    prompt: str,
    *,
    draft: str | None = None,
    policy: str | Policy | None = None,
    max_new_tokens: int = 64,
    do_sample: bool = False,
    temperature: float = 1.0,
    seed: int = 0,
    lenience: float = 1.0,
    plain: bool = True,
    continuations: bool = False,
    costs: Costs | None = None,
    lean: bool = True,
    on_round: Callable[[RoundRecord], None] | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> DecodeRecord:
    """Let the teacher write a text, faster, by verifying what a draft proposes.

    Greedy text is the teacher's own, token for token; sampled text has exactly its distribution. Both hold for every
    draft and every policy, as long as ``lenience`` is 1.

    Args:
        pair: from ``load_pair``; its teacher writes.
        prompt: the question, put into the pair's chat template.
        draft: "student", "student:vocab=8192", "eagle", "lookup+eagle" (the layer where lookup finds nothing),
            "exit:layer=8", "lookup", "hispec:draft=4:middle=8" or "none"; by default the fastest lossless one here.
        policy: how far a round drafts: "fixed:g=4", "confidence:p=0.4", "path:p=0.3", "cost",
            "tree:width=4:depth=3:nodes=8", "ddd:x=-0.3:width=10:n=11"; by default "cost".
        max_new_tokens: the longest response, 1 or more.
        do_sample: draw from p at the temperature; otherwise greedy.
        temperature: tau > 0, divides both models' logits.
        seed: names every uniform of a sampled text.
        lenience: epsilon in (0, 1]; below 1 more is accepted and the text is no longer the teacher's.
        plain: also run our own plain loop over the same number of tokens, to compare with: in turns with the rounds, so
            that a slow spell of the machine meets both.
        continuations: also keep, for each place of a greedy text, what the draft would have said there.
        costs: from ``measure_costs``; measured when they are needed and not given.
        lean: False runs the model's own forward in any case.
        on_round: called with each finished round.
        on_progress: called with a Progress: stages "costs" and "decode" (text: the response so far).
        should_stop: asked before each step of the draft and each pass of the teacher.
    Returns:
        The record; the same text for the same arguments and machine.
    Raises:
        ValueError: an argument makes no sense, or draft and teacher do not fit.
        DecodingStopped: ``should_stop`` turned true; ``record`` holds the finished rounds.
    """
    report, stopping = on_progress or (lambda _: None), should_stop or (lambda: False)
    request = check_decode(
        prompt, draft or fastest_draft(pair, do_sample), policy, max_new_tokens, do_sample, temperature, seed, lenience
    )
    prompt_ids = encode_prompt(pair.tokenizer, [{"role": "user", "content": prompt}])
    room = room_of(pair, len(prompt_ids), max_new_tokens)
    target = forward_of(pair.teacher, pair.vocabulary_size, lean)
    fitted = fit_draft(pair, request.draft, target, request.policy, do_sample, lean)
    if costs is None and fitted.draft is not None and fitted.is_predicted and (plain or request.policy.name == "cost"):
        report(Progress("costs", 0, 1, "measuring what drafts and passes cost here"))
        costs = known_costs(pair, fitted, target, stopping)
    job = Decoding(pair, request, target, fitted, prompt_ids, room, costs, stopping)
    # Without a draft the rounds are the plain loop: a second one beside it would differ by noise alone.
    beside = PlainBeside(job, stopping) if plain and fitted.draft is not None else None
    try:
        for done in job.steps:
            job.add(done)
            if on_round is not None:
                on_round(job.rounds[-1])
            report(Progress("decode", len(job.output_ids), room, pair.tokenizer.decode(job.output_ids)))
            if beside is not None:
                beside.catch_up()
        if plain and fitted.draft is None:
            job.plain_seconds = sum(step.draft_seconds + step.verify_seconds for step in job.rounds)
            job.plain_ids = job.output_ids
        if continuations and not do_sample and fitted.draft is not None:
            job.continuations = continue_everywhere(fitted, prompt_ids, job, stopping)
    except Stopped:
        stopped = DecodingStopped()
        stopped.record = job.record() if job.rounds else None
        raise stopped from None
    return job.record()
