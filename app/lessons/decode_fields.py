"""Fields of a recorded decoding: the step's own, or another one by its name in ``of``."""

from app.lessons.decode_facts import DecodingFacts, decoding_facts
from app.lessons.scene import Scene, a_field
from app.lessons.values import Unmet, Value, count, measured, number, share, token


def _facts(s: Scene, of: str | None) -> DecodingFacts:
    return s.decoded if of is None else decoding_facts(of)


def _times(value: float) -> Value:
    return number(value, "times")


@a_field
def rounds(s: Scene, of: str | None = None) -> Value:
    return count(_facts(s, of).figure("n_rounds"))


@a_field
def written(s: Scene, of: str | None = None) -> Value:
    """Tokens of the text."""
    return count(_facts(s, of).figure("n_tokens"))


@a_field
def per_pass(s: Scene, of: str | None = None) -> Value:
    """Block efficiency: tokens a pass of the teacher."""
    return measured(_facts(s, of).figure("block_efficiency"))


@a_field
def drafted(s: Scene, of: str | None = None) -> Value:
    return count(_facts(s, of).figure("n_drafted"))


@a_field
def thrown(s: Scene, of: str | None = None) -> Value:
    """Drafted tokens that are not in the text."""
    return count(_facts(s, of).figure("thrown_away"))


@a_field
def taken(s: Scene, of: str | None = None) -> Value:
    """Accepted tokens over places that were looked at."""
    return share(_facts(s, of).figure("acceptance"))


@a_field
def faster(s: Scene, of: str | None = None) -> Value:
    """The measured speed-up over our plain loop."""
    return _times(_facts(s, of).figure("speedup"))


@a_field
def foretold(s: Scene, of: str | None = None) -> Value:
    """The speed-up predicted from measured costs."""
    return _times(_facts(s, of).figure("predicted_speedup"))


@a_field
def pays_from(s: Scene, of: str | None = None) -> Value:
    """The acceptance from which a draft of one token pays."""
    return share(_facts(s, of).costs("break_even"))


@a_field
def best(s: Scene, of: str | None = None) -> Value:
    """The fixed length that is predicted to be the fastest."""
    return count(_facts(s, of).costs("best_length"))


@a_field
def step_cost(s: Scene, of: str | None = None) -> Value:
    """c: a step of the draft, in tokens of the teacher."""
    return measured(_facts(s, of).costs("draft"))


@a_field
def pass_cost(s: Scene, rows: int, of: str | None = None) -> Value:
    """v(rows): a pass of the teacher over so many rows, in tokens of the teacher."""
    known = _facts(s, of)
    if rows not in known.costs("rows"):
        raise Unmet(f"a pass over {rows} rows was not measured")
    return _times(known.costs("verify")[known.costs("rows").index(rows)])


@a_field
def length_speed(s: Scene, g: int, of: str | None = None) -> Value:
    """The predicted speed-up of a fixed length, at the acceptances of the text."""
    return _times(dict(map(tuple, _facts(s, of).costs("lengths")))[g])


@a_field
def replay_speed(s: Scene, policy: str, of: str | None = None) -> Value:
    """The predicted speed-up of another policy on the same text and drafts."""
    return _times(_facts(s, of).replayed(policy)[1])


@a_field
def replay_thrown(s: Scene, policy: str, of: str | None = None) -> Value:
    return count(_facts(s, of).replayed(policy)[3])


@a_field
def draft_word(s: Scene, pin: str = "rejected") -> Value:
    """The drafted token of a role."""
    step, node = s.decoded.node(pin)
    return token(s.decoded.record.strings[step.tokens[node]])


@a_field
def own_word(s: Scene, pin: str = "resampled") -> Value:
    """The teacher's own token at the end of the round of a role."""
    return token(s.decoded.record.strings[s.decoded.record.rounds[s.decoded.pin(pin)[0]].output[-1]])


@a_field
def draft_q(s: Scene, pin: str = "rejected") -> Value:
    step, node = s.decoded.node(pin)
    return share(step.draft_probs[node])


@a_field
def draft_p(s: Scene, pin: str = "rejected") -> Value:
    step, node = s.decoded.node(pin)
    return share(step.teacher_probs[node])


@a_field
def draft_passes(s: Scene, pin: str = "rejected") -> Value:
    """min(1, p/q) of the drafted token of a role."""
    step, node = s.decoded.node(pin)
    return share(step.acceptance[node])


@a_field
def draft_coin(s: Scene, pin: str = "rejected") -> Value:
    step, node = s.decoded.node(pin)
    if step.coins[node] is None:
        raise Unmet("no coin was tossed for it")
    return share(float(step.coins[node] or 0.0))
