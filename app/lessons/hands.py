"""What a reader can take in hand: the data behind bars and sliders (two lists, one gradient, a formula).

The page gets {"tag": "hands", "kind", ...} with plain numbers, all of them of the trace on screen.
"""

from typing import Any

from app.lessons.scene import Scene, evaluate

KINDS = ("overlap", "gradient", "speed")
SHOWN = 6  # tokens that get a bar of their own


def make(kind: str, scene: Scene) -> dict[str, Any]:
    """The data of one of KINDS.

    Raises:
        Unmet: the text has no token of the step's role.
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"There is nothing {kind!r} to take in hand: choose one of {', '.join(KINDS)}.")
    if kind == "speed":
        chance = evaluate("acceptance", scene).number
        return {"tag": "hands", "kind": kind, "a": chance, "c": scene.settings["cost"], "g": scene.settings["draft"]}
    t = scene.place()
    texts, p, q = _likeliest(scene, t)
    rest_p, rest_q = max(0.0, 1 - sum(p)), max(0.0, 1 - sum(q))
    if kind == "gradient":
        return {"tag": "hands", "kind": kind, "tokens": [*texts, None], "p": [*p, rest_p], "q": [*q, rest_q],
                "weight": float(scene.text.trace.weights(scene.text.gate(scene.knobs))[t])}  # fmt: skip
    # All other tokens as three bars: what both give them, and what one of the two gives beyond that. So the area that
    # the bars share is exactly the overlap of the whole lists.
    shared = 1 - scene.text.divergence("tvd")[t] - sum(map(min, p, q))
    shared = min(max(shared, 0.0), rest_p, rest_q)
    rest = {"shared": shared, "teacher": rest_p - shared, "student": rest_q - shared}
    return {"tag": "hands", "kind": kind, "tokens": texts, "rest": rest, "p": p, "q": q}


def _likeliest(scene: Scene, t: int) -> tuple[list[str], list[float], list[float]]:
    """The tokens that either model finds likeliest, with the teacher's and the student's probability of each."""
    columns, both = scene.text.columns, {}
    for name in ("teacher_top", "student_top"):
        top = columns[name]
        for token_id, own, other in zip(top["ids"][t], top["prob"][t], top["other_prob"][t], strict=True):
            both[token_id] = (own, other) if name == "teacher_top" else (other, own)
    chosen = sorted(both, key=lambda token_id: (-max(both[token_id]), token_id))[:SHOWN]
    texts = [scene.text.text_of(token_id) for token_id in chosen]
    return texts, [both[one][0] for one in chosen], [both[one][1] for one in chosen]
