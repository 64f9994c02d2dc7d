"""What a lesson says of a token or of two numbers, as conditions that are computed.

The words of a claim carry it: ``[heavy](<is:heavy at=sure_miss>)`` or
``[the larger](<is:divergence divergence=forward_kl above divergence divergence=reverse_kl>)``. Several stand side by
side with a semicolon. A step of which one claim is false for a text is left out for it; so no lesson says what its
picture denies (tests/app/test_claims.py holds each against plain loops over every shipped trace).
"""

import re
from collections.abc import Callable
from typing import Any

from app.lessons import study_fields
from app.lessons.scene import Scene, evaluate, read_number, read_spec
from app.lessons.values import Value, apart, number

Condition = Callable[[Scene, Any], bool]
CLAIMS: dict[str, Condition] = {
    "sure": lambda s, at: s.row(at).sure,
    "unsure": lambda s, at: s.row(at).unsure,
    "heavy": lambda s, at: s.row(at).heavy,
    "accepted": lambda s, at: s.text.accepted(s.knobs)[s.place(at)],
    "rejected": lambda s, at: not s.text.accepted(s.knobs)[s.place(at)],
    "differs": lambda s, at: s.row(at).differs,  # proposal and favourite are two words
    "agrees": lambda s, at: s.row(at).rank == 1,
    **study_fields.VERDICTS,  # of a comparison of the study: helps, hurts, unseen
    "role": lambda s, at: s.place(at) >= 0,  # the token has a role, which is a condition itself
}
_COMPARED = re.compile(r"(.+?) (above|below|near) (.+)")


def holds(claim: str, scene: Scene) -> bool:
    """Whether all conditions of a claim are true of what a step shows.

    ``above`` and ``below`` mean so far apart that the two are also written differently; ``near`` that they are not.

    Raises:
        Unmet: the text has no such token.
        ValueError: it is not written as a claim is.
    """
    return all(_one(part.strip(), scene) for part in claim.split(";"))


def _one(claim: str, scene: Scene) -> bool:
    compared = _COMPARED.fullmatch(claim)
    if compared:
        left = evaluate(compared[1], scene)
        right = _side(compared[3], left, scene)
        if left.number is None or right.number is None:
            raise ValueError(f"The claim {claim!r} compares words.")
        if compared[2] == "near":
            return not apart(left, right)
        return apart(left, right) and (left.number > right.number) == (compared[2] == "above")
    name, arguments = read_spec(claim)
    if name not in CLAIMS:
        raise ValueError(f"There is no condition {name!r}: choose one of {', '.join(CLAIMS)}, or compare two fields.")
    at = arguments.pop("at", None)
    return bool(CLAIMS[name](scene.with_(**arguments), at))


def _side(text: str, like: Value, scene: Scene) -> Value:
    given = read_number(text)
    return number(float(given), like.kind) if isinstance(given, int | float) else evaluate(text, scene)
