"""Names and units of what the project shows, in one table: Python writes with it, and the page is sent it as JSON.

Plain dictionaries, in the order in which a page lists them. ``label`` is what stands on a control or above a column,
``says`` what it means in a sentence, ``unit`` what its numbers are counted in, and ``kind`` how the browser writes
them (speckd/html/format.js).
"""

from typing import Any

GATES: dict[str, dict[str, Any]] = {
    "topk": {
        "label": "Top-k",
        "column": "topk_threshold",
        "says": "the student's proposal is among the teacher's k likeliest",
    },
    "speck": {
        "label": "Spec-k",
        "column": "speck_threshold",
        "says": "one of k draws from the student passes its coin",
    },
    "none": {"label": "All open", "column": None, "says": "every token counts in full (plain distillation)"},
}
DIVERGENCES: dict[str, dict[str, str]] = {
    "forward_kl": {"label": "forward KL", "long": "forward KL(p‖q)", "unit": "nats", "kind": "nats"},
    "reverse_kl": {"label": "reverse KL", "long": "reverse KL(q‖p)", "unit": "nats", "kind": "nats"},
    "jsd": {"label": "JSD", "long": "Jensen-Shannon", "unit": "nats", "kind": "nats"},
    "skew_kl": {"label": "skew KL", "long": "skew KL, α = 0.1", "unit": "nats", "kind": "nats"},
    "skew_reverse_kl": {
        "label": "skew reverse KL",
        "long": "skew reverse KL, α = 0.1",
        "unit": "nats",
        "kind": "nats",
    },
    "tvd": {"label": "total variation", "long": "total variation", "unit": "", "kind": "score"},
}
# Rankings beside the gate; own_fraction is the share of the tokens that each keeps as its paper uses it.
SELECTORS: dict[str, dict[str, Any]] = {
    "adakd": {"label": "AdaKD", "says": "largest Hellinger distance first", "own_fraction": 0.5},
    "student_entropy": {
        "label": "student entropy",
        "says": "the student's most uncertain tokens first",
        "own_fraction": 0.2,
    },
    "teacher_entropy_low": {
        "label": "teacher entropy, low",
        "says": "the teacher's surest tokens first",
        "own_fraction": 0.5,
    },
    "teacher_entropy_high": {
        "label": "teacher entropy, high",
        "says": "the teacher's least sure tokens first",
        "own_fraction": 0.5,
    },
    "random": {"label": "random", "says": "any tokens: the control", "own_fraction": 0.5},
}
# What a training run may be told to count, beside the gates above.
RUN_GATES: dict[str, str] = {
    "topk": "Top-k",
    "speck": "Spec-k",
    "none": "all open (plain)",
    "hellinger": "Hellinger weight",
    "adakd": "AdaKD",
    "student_entropy": "student entropy",
    "teacher_entropy": "teacher entropy",
    "random": "random tokens",
}
# Columns of a training log, and figures of a held-out evaluation.
FIGURES: dict[str, dict[str, str]] = {
    "tar": {"label": "TAR", "kind": "share"},
    "loss": {"label": "loss, nats", "kind": "nats"},
    "divergence": {"label": "ungated divergence, nats", "kind": "nats"},
    "masked_share": {"label": "masked away", "kind": "share"},
    "tokens_per_second": {"label": "tokens a second", "kind": "ratio"},
    "learning_rate": {"label": "learning rate", "kind": "ratio"},
}
HELD_OUT: dict[str, dict[str, str]] = {
    "divergence": {"label": "divergence, nats", "kind": "nats"},
    "tar": {"label": "TAR", "kind": "share"},
    "acceptance": {"label": "one draw passes", "kind": "probability"},
    "agreement": {"label": "same first choice", "kind": "share"},
    "rouge_l": {"label": "ROUGE-L", "kind": "score"},
}
DATA: dict[str, str] = {
    "shipped": "the shipped prompts",
    "pasted": "prompts of your own",
    "uploaded": "a file of your own",
}
RESPONSES: dict[str, str] = {
    "file": "the file, as they stand",
    "teacher": "the teacher",
    "student": "the student, as it trains",
    "mixed": "half student, half file",
}
KNOBS: dict[str, Any] = {
    "gate": "topk",
    "k": 5,
    "beta": 0.01,
    "divergence": "forward_kl",
}  # a picture's, at first sight
K_MAX = 50  # draws a row has, so the highest k


def table() -> dict[str, Any]:
    """All of it, for JSON."""
    return {
        "gates": GATES,
        "divergences": DIVERGENCES,
        "selectors": SELECTORS,
        "run_gates": RUN_GATES,
        "figures": FIGURES,
        "held_out": HELD_OUT,
        "data": DATA,
        "responses": RESPONSES,
        "k_max": K_MAX,
        "defaults": {"knobs": KNOBS},
    }
