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
    "trim": "trimmed",
}
# Columns of a training log, and figures of a held-out evaluation.
FIGURES: dict[str, dict[str, str]] = {
    "divergence": {"label": "ungated divergence, nats", "kind": "nats"},
    "tar": {"label": "accepted by its own gate", "kind": "share"},
    "masked_share": {"label": "masked away", "kind": "share"},
    "tokens_per_second": {"label": "tokens a second", "kind": "score"},
    "learning_rate": {"label": "learning rate", "kind": "ratio"},
    "loss": {"label": "gated loss, nats (not comparable)", "kind": "nats"},
}
# What a racer's own share is the share of, under its gate; a held-out TAR is always Top-k's.
OWN_SHARE: dict[str, str] = {
    "none": "Top-k would accept",
    "random": "kept by its die",
}
HELD_OUT: dict[str, dict[str, str]] = {
    "divergence": {"label": "divergence, nats", "kind": "nats"},
    "tar": {"label": "TAR of Top-k, k = 5", "kind": "share"},
    "acceptance": {"label": "one draw passes", "kind": "probability"},
    "agreement": {"label": "same first choice", "kind": "share"},
    "rouge_l": {"label": "ROUGE-L", "kind": "score"},
}
# The same in a written report, where a line has room for the whole name: figure -> (words, unit).
REPORT_HELD_OUT: dict[str, tuple[str, str]] = {
    "divergence": ("Divergence", "nats a token"),
    "tar": ("TAR", "share of tokens"),
    "acceptance": ("Acceptance probability, 1 - TVD", "mean"),
    "agreement": ("Next-token agreement", "share of tokens"),
    "rouge_l": ("ROUGE-L of greedy answers", "F1 against the teacher's"),
    "student_entropy": ("Student's entropy", "nats"),
    "teacher_entropy": ("Teacher's entropy", "nats"),
}
REPORT_TRAINING: dict[str, tuple[str, str]] = {  # column of the log -> (words, unit)
    "loss": ("Loss", "nats a token, after the gate"),
    "divergence": ("Divergence", "nats a token, no gate"),
    "tar": ("Token acceptance rate", "share of tokens"),
    "masked_share": ("Share of the loss masked", "share of the divergence"),
    "teacher_entropy": ("Teacher's entropy", "nats"),
    "student_entropy": ("Student's entropy", "nats"),
    "grad_norm": ("Gradient norm", "before clipping"),
    "learning_rate": ("Learning rate", "a step"),
    "tokens_per_second": ("Speed", "response tokens a second"),
}
RINGS = "held out (TAR: that of Top-k, k = 5)"  # what the rings of a race's charts are
# Figures of a study's run that the map may show (columns of assets/study/runs.csv), and what is better.
STUDY_FIGURES: dict[str, dict[str, str]] = {
    "acceptance": {
        "label": "acceptance",
        "kind": "share",
        "better": "higher",
        "says": "chance that the teacher accepts one draw of the student: 1 − TVD, on held-out answers",
    },
    "divergence": {
        "label": "held-out forward KL",
        "kind": "nats",
        "better": "lower",
        "says": "what plain distillation minimises directly, on held-out answers",
    },
    "reverse_kl": {
        "label": "held-out reverse KL",
        "kind": "nats",
        "better": "lower",
        "says": "how far the student strays where it is sure, on held-out answers",
    },
    "jsd": {"label": "held-out JSD", "kind": "nats", "better": "lower", "says": "between the two KLs, bounded"},
    "tar1": {"label": "TAR at k = 1", "kind": "share", "better": "higher", "says": "both models have one favourite"},
    "tar5": {"label": "TAR at k = 5", "kind": "share", "better": "higher", "says": "Top-k's rate at k = 5"},
    "tar20": {
        "label": "TAR at k = 20",
        "kind": "share",
        "better": "higher",
        "says": "Top-k's rate at k = 20",
    },
    "own_reverse_kl": {
        "label": "reverse KL, own sampled text",
        "kind": "nats",
        "better": "lower",
        "says": "on what the student then samples itself",
    },
    "greedy_reverse_kl": {
        "label": "reverse KL, own greedy text",
        "kind": "nats",
        "better": "lower",
        "says": "on what the student then writes greedily",
    },
    "own_teacher_nats": {
        "label": "teacher’s nats, sampled text",
        "kind": "nats",
        "better": "lower",
        "says": "how surprised the teacher is by each token that the student samples",
    },
    "greedy_teacher_nats": {
        "label": "teacher’s nats, greedy text",
        "kind": "nats",
        "better": "lower",
        "says": "how surprised the teacher is by each token that the student writes greedily; repetition lowers it too",
    },
    "greedy_repetition": {
        "label": "repetition, greedy text",
        "kind": "share",
        "better": "lower",
        "says": "share of trigrams that stood there before",
    },
    "own_repetition": {
        "label": "repetition, sampled text",
        "kind": "share",
        "better": "lower",
        "says": "share of trigrams that stood there before",
    },
    "rouge_l": {
        "label": "ROUGE-L",
        "kind": "score",
        "better": "higher",
        "says": "the student's greedy answers against the teacher's",
    },
    "tasks": {"label": "small tasks", "kind": "share", "better": "higher", "says": "share of 49 tasks answered right"},
    "tasks_chosen": {
        "label": "small tasks, chosen",
        "kind": "share",
        "better": "higher",
        "says": "share of 49 tasks whose right answer is likelier than the wrong ones",
    },
    "block_efficiency_greedy": {
        "label": "block efficiency, greedy",
        "kind": "score",
        "better": "higher",
        "says": "tokens a round as a draft of four tokens, on the teacher's greedy text",
    },
    "grad_norm_spread": {
        "label": "spread of the gradient norm",
        "kind": "score",
        "better": "lower",
        "says": "standard deviation over mean, after the first five steps",
    },
    "largest_jump": {
        "label": "largest rise of the curve",
        "kind": "nats",
        "better": "lower",
        "says": "largest rise of the held-out curve between two looks",
    },
}
# Columns of the same table that may stand on the map's axes, and names of their values.
STUDY_FACTORS: dict[str, dict[str, Any]] = {
    "gate": {"label": "what is counted"},
    "part": {"label": "question"},
    "text": {
        "label": "text",
        "values": {
            "sampled": "teacher’s, sampled",
            "greedy": "teacher’s, greedy",
            "hot": "teacher’s, temperature 1.5",
            "noisy30": "three in ten swapped",
            "noisy60": "six in ten swapped",
            "own": "the student’s own",
            "half": "half the student’s own",
        },
    },
    "student": {"label": "start"},
    "learning_rate": {"label": "learning rate"},
    "steps": {"label": "steps"},
    "objective": {"label": "loss"},
    "study": {"label": "plan", "values": {"confirm": "confirming", "screen": "screening"}},
    "figure": {"label": "figure"},
}
# Arms that a study knows beside RUN_GATES, by the first word of their name; "matched" by what it keeps instead.
STUDY_ARMS: dict[str, str] = {
    "none": "plain",
    "matched:by=random": "random tokens, same budget",
    "matched:by=clip": "clipping, same budget",
    "matched:by=first": "first tokens, same budget",
    "matched:by=last": "last tokens, same budget",
    "matched:by=student_entropy": "student entropy, same budget",
    "matched:by=adakd": "AdaKD, same budget",
    "matched:by=tip": "TIP, same budget",
    "random:rate=0.99": "placebo",
    "topk_schedule": "Top-k schedule",
    "adaspec": "AdaSPEC",
    "tip": "TIP",
    "margin": "margin",
}
# What an arm may be held against.
STUDY_CONTROLS: dict[str, str] = {
    "none": "plain distillation",
    "matched:by=random": "random tokens at equal budget",
    "matched:by=clip": "clipping at equal budget",
    "random:rate=0.99": "the placebo",
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
# What may propose and how far, as the page's lists have them: the text that speckd.decode reads -> what it is called.
DRAFTS: dict[str, str] = {
    "": "the fastest here",
    "lookup+eagle": "lookup, then one layer",
    "eagle": "one-layer draft (EAGLE)",
    "student:vocab=8192": "student, head cut",
    "student": "student",
    "lookup": "prompt lookup",
    "exit:layer=8": "exit after layer 8",
    "hispec:draft=4:middle=8": "two exits (HiSpec)",
    "none": "no draft",
}
POLICIES: dict[str, str] = {
    "": "its usual",
    "cost": "as far as it pays",
    "fixed:g=1": "1 token",
    "fixed:g=2": "2 tokens",
    "fixed:g=4": "4 tokens",
    "confidence:p=0.4": "while it is sure",
    "path:p=0.1:most=6": "while the path is likely",
    "tree:width=4:depth=3:nodes=8": "tree of 8 (EAGLE-2)",
    "ddd:x=-0.9:width=4:n=6:steps=1+2+3:nodes=8": "growing tree (DDD)",
    "ddd:x=-0.6:width=3:n=4:steps=1+2+3:nodes=5:p=0.1": "growing tree, tuned for the layer here",
}
VERDICTS: dict[str, dict[str, str]] = {
    "accepted": {"label": "accepted", "says": "the teacher takes it"},
    "rejected": {"label": "rejected", "says": "the teacher turns it down: the draft ends here"},
    "unseen": {"label": "not looked at", "says": "something before it failed, so nobody looked"},
}
# How the last token of a round came.
LASTS: dict[str, dict[str, str]] = {
    "teacher": {"label": "teacher’s own", "says": "The teacher’s first choice here: one comes with every pass."},
    "bonus": {
        "label": "bonus",
        "says": "All drafts passed, and the same pass of the teacher gave one token more, drawn from p.",
    },
    "resampled": {
        "label": "resampled",
        "says": "After a rejection it is drawn from what is left of p above q: so the text has p’s distribution.",
    },
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
        "own_share": OWN_SHARE,
        "rings": RINGS,
        "data": DATA,
        "responses": RESPONSES,
        "drafts": DRAFTS,
        "policies": POLICIES,
        "verdicts": VERDICTS,
        "lasts": LASTS,
        "study": {
            "figures": STUDY_FIGURES,
            "factors": STUDY_FACTORS,
            "arms": STUDY_ARMS,
            "controls": STUDY_CONTROLS,
        },
        "k_max": K_MAX,
        "defaults": {"knobs": KNOBS},
    }
