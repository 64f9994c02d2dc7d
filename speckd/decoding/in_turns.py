"""Several ways of decoding one prompt, round by round in turns: what others do on the machine then meets all of them.

Two texts that are timed one after the other differ by what the machine did meanwhile, by a tenth and more where it has
other work. So the way whose text is the shortest always goes next: all stand at the same place of the text within a
round, and the costs that predict them are measured between their rounds.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from speckd.data import encode_prompt
from speckd.decoding.beside import continue_everywhere
from speckd.decoding.costs import Costs
from speckd.decoding.draft_named import fit_draft
from speckd.decoding.drafts import Fitted
from speckd.decoding.forward import forward_of
from speckd.decoding.measuring import Meter, known_costs
from speckd.decoding.record import DecodeRecord
from speckd.decoding.recording import Decoding
from speckd.decoding.request import check_decode, room_of
from speckd.decoding.rounds import Round
from speckd.pairs import Pair

ROWS = (1, 2, 3, 4, 5, 7, 9)  # passes that are timed between rounds
Way = tuple[str, str]  # draft and policy, as they are written


def by_turns(
    texts: Sequence[Iterator[Round]], between: Callable[[], object] | None = None
) -> Iterator[tuple[int, Round]]:
    """The rounds of several texts, always one of the shortest text next.

    Args:
        texts: rounds of one text each.
        between: called after each round of the first text.
    Yields:
        The number of the text, and its round.
    """
    lengths: list[float] = [0.0] * len(texts)
    while min(lengths) < float("inf"):
        number = lengths.index(min(lengths))
        done = next(texts[number], None)
        if done is None:
            lengths[number] = float("inf")
            continue
        lengths[number] += len(done.output)
        yield number, done
        if number == 0 and between is not None:
            between()


def decode_in_turns(
    pair: Pair, prompt: str, ways: Sequence[Way], *, max_new_tokens: int = 64, continued: Way | None = None
) -> dict[Way, DecodeRecord]:
    """Decode one prompt greedily in several ways at once, beside our plain loop.

    Args:
        pair: from ``load_pair``.
        prompt: as in ``decode``.
        ways: drafts and policies, all different; ("none", "none") is run in any case.
        max_new_tokens: the longest response.
        continued: the way whose record also keeps the draft's continuations.
    Returns:
        A record of each way, with the plain loop's seconds and the costs as they were between the rounds.
    Raises:
        ValueError: a way makes no sense, or does not fit the pair.
    """
    plain: Way = ("none", "none")
    target = forward_of(pair.teacher, pair.vocabulary_size)
    prompt_ids = encode_prompt(pair.tokenizer, [{"role": "user", "content": prompt}])
    room = room_of(pair, len(prompt_ids), max_new_tokens)
    jobs: dict[Way, Decoding] = {}
    drafts: dict[str, Fitted] = {}
    for draft, policy in dict.fromkeys([plain, *ways]):
        request = check_decode(prompt, draft, policy, max_new_tokens, False, 1.0, 0)
        own = target.fresh()  # exits draft with the forward that verifies
        fitted = fit_draft(pair, draft, own, request.policy, False)
        if fitted.draft is not None and fitted.is_predicted:
            drafts.setdefault(fitted.name, fitted)
        costs: Costs | None = known_costs(pair, fitted, target) if request.policy.name == "cost" else None
        jobs[draft, policy] = Decoding(pair, request, own, fitted, prompt_ids, room, costs)
    meter = Meter(list(drafts.values()), target, len(prompt_ids) + room // 2, ROWS)
    keys = list(jobs)
    for number, done in by_turns([iter(job.steps) for job in jobs.values()], meter.step):
        jobs[keys[number]].add(done)
    meter.turn()  # a short text leaves some jobs out
    measured = {name: meter.costs(name) for name in drafts}
    base = jobs[plain]
    records = {}
    for way, job in jobs.items():
        job.plain_seconds, job.plain_ids = sum(r.draft_seconds + r.verify_seconds for r in base.rounds), base.output_ids
        if way == continued:
            job.continuations = continue_everywhere(job.fitted, prompt_ids, job, lambda: False)
        records[way] = replace(job.record(), costs=measured.get(job.fitted.name))
    return records
