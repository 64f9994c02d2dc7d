"""``python -m speckd decode``: speculative decoding of one text, round by round."""

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speckd.cli.options import add_pair_options, pair_from
from speckd.cli.terminal import printable, progress_bars

if TYPE_CHECKING:
    from speckd.decoding.record import DecodeRecord, RoundRecord


def register(commands: Any) -> None:
    command = commands.add_parser(
        "decode",
        help="let the teacher write faster, by verifying what a draft proposes",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=textwrap.dedent(
            """\
            Speculative decoding of one text, round by round: a draft proposes tokens, one pass of the teacher verifies
            them all, and what passes is kept. Greedy text is the teacher's own, token for token; sampled text has
            exactly its distribution.

            Each line is one round: drafted tokens that passed stand plain, one that was rejected in [brackets], what
            nobody looked at in (parentheses), and after the arrow the teacher's own token.
            """
        ),
        epilog=textwrap.dedent(
            """\
            drafts:    student  student:vocab=8192  eagle  lookup  lookup+eagle  exit:layer=8
                       hispec:draft=4:middle=8  none
            policies:  fixed:g=4  confidence:p=0.4  path:p=0.3  cost  tree:width=4:depth=3:nodes=8
                       ddd:x=-0.3:width=10:n=11

            examples:
              python -m speckd decode "Why is the sky blue?"
              python -m speckd decode "Why is the sky blue?" --draft student --policy fixed:g=2 --costs
              python -m speckd decode "Tell me a story." --sample --seed 7 --json story.json
            """
        ),
    )
    command.set_defaults(command=_decode)
    command.add_argument("prompt", metavar="QUESTION", help="what to ask")
    add_pair_options(command)
    how = command.add_argument_group("how")
    how.add_argument("--draft", metavar="DRAFT", help="what proposes (default: the fastest lossless one here)")
    how.add_argument("--policy", metavar="POLICY", help="how far a round drafts (default: cost)")
    how.add_argument("--sample", action="store_true", help="draw from the teacher's distribution instead of greedily")
    how.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="longest response (default: 64)")
    how.add_argument("--temperature", type=float, default=1.0, metavar="TAU", help="above 0 (default: 1)")
    how.add_argument("--seed", type=int, default=0, help="names every coin (default: 0)")
    how.add_argument("--lenience", type=float, default=1.0, help="below 1 accepts more: lossy (default: 1, lossless)")
    output = command.add_argument_group("output")
    output.add_argument("--no-plain", action="store_true", help="do not run the plain loop to compare with")
    output.add_argument("--costs", action="store_true", help="also print measured costs and what follows from them")
    output.add_argument("--continuations", action="store_true", help="keep what the draft would say at every place")
    output.add_argument("--json", metavar="FILE", help="write the whole record as JSON")


def _decode(options: argparse.Namespace) -> int:
    from speckd.decoding.decode import decode
    from speckd.decoding.request import check_decode

    # mistakes first: they cost nothing before the models are loaded
    check_decode(
        options.prompt,
        options.draft or "none",
        options.policy if options.draft else None,
        options.max_new_tokens,
        options.sample,
        options.temperature,
        options.seed,
        options.lenience,
    )
    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise ValueError(f"{options.json}: its folder does not exist. Make it first.")
    with progress_bars() as follow:
        pair = pair_from(options, follow)
        record = decode(
            pair,
            options.prompt,
            draft=options.draft,
            policy=options.policy,
            max_new_tokens=options.max_new_tokens,
            do_sample=options.sample,
            temperature=options.temperature,
            seed=options.seed,
            lenience=options.lenience,
            plain=not options.no_plain,
            continuations=options.continuations,
            on_progress=follow,
        )
    for step in record.rounds:
        print(round_line(record, step))
    print()
    print(record.text)
    print()
    print(summary(record))
    if options.costs and record.costs is not None:
        print(costs_lines(record))
    if options.json:
        record.to_json(options.json)
    return 0


def round_line(record: "DecodeRecord", step: "RoundRecord") -> str:
    """One round as a line: drafted tokens with their verdicts, then the teacher's own."""
    marks = {"accepted": ("", ""), "rejected": ("[", "]"), "unseen": ("(", ")")}
    drafted = []
    for token, verdict in zip(step.tokens, step.verdicts, strict=True):
        before, after = marks[verdict]
        drafted.append(before + printable(record.strings[token]) + after)
    own = step.output[step.n_accepted :]
    last = f" -> {printable(record.strings[own[0]])}" if own else ""
    return f"{step.start:4d}  {' '.join(drafted)}{last}" + ("  (near-tie)" if step.near_tie else "")


def summary(record: "DecodeRecord") -> str:
    """The figures of a record, and what made it."""
    config = record.config
    drafted = sum(len(step.tokens) for step in record.rounds)
    kind = "lossless" if record.lossless else "LOSSY: not always the teacher's text"
    lines = [
        f"{record.n_tokens} tokens in {len(record.rounds)} rounds, {record.block_efficiency:.2f} a pass of the teacher",
        kind,
    ]
    if drafted:
        lines.append(
            f"acceptance {record.acceptance:.2f} of the tokens that were looked at; {record.thrown_away} of {drafted} "
            f"drafted tokens thrown away"
        )
    clock = "of work" if config["clock"] == "cpu" else "by the clock"
    lines.append(f"{record.seconds:.2f} s {clock}, {record.tokens_per_second:.1f} tokens a second")
    if record.speedup is not None:
        predicted = record.predicted_speedup
        words = f"speed-up {record.speedup:.2f} over our plain loop"
        lines.append(words + (f", {predicted:.2f} predicted from measured costs" if predicted is not None else ""))
    if record.identical is not None:
        other = "ANOTHER text: please report this" if record.lossless else "another text, as lossy decoding may"
        same = "the same text, token for token" if record.identical else other
        lines.append(f"the plain loop wrote {same}; near-ties decided by one row: {record.near_ties}")
    how = f"sampled at temperature {config['temperature']:g}, seed {config['seed']}"
    lines.append(
        f"draft {config['draft']}, policy {config['policy']}, {how if config['do_sample'] else 'greedy'}; "
        f"teacher {config['teacher']}"
    )
    return "\n".join(lines)


def costs_lines(record: "DecodeRecord") -> str:
    """Measured costs in teacher tokens, the acceptance from which a draft pays, and the best length."""
    from speckd.decoding.costs import break_even
    from speckd.decoding.facts import best_fixed, fixed_lengths

    costs = record.costs
    assert costs is not None
    passes = ", ".join(f"{rows}: {ratio:.2f}" for rows, ratio in zip(costs.rows, costs.verify_ratio, strict=True))
    even = break_even(costs)
    best = best_fixed(fixed_lengths(record))
    told = "not known from this run" if best is None else "none: drafting does not pay here"
    if best is not None and best[0]:
        told = f"{best[0]}, predicted {best[1]:.2f}"
    return (
        f"a pass over n rows, in teacher tokens: {passes}\n"
        f"a step of the draft: {costs.draft:.3f}; a teacher token: {1000 * costs.seconds:.1f} ms "
        f"(spread {costs.spread:.0%})\n"
        f"a draft of one token pays from acceptance {f'{even:.2f} on' if even is not None else 'nowhere'}; "
        f"best fixed length: {told}"
    )
