"""Traces made up by hand, in the JSON form that the browser reads: any length, any tokens, no model run.

The numbers hang together as a real trace's do (a probability is a probability, the ranks are a permutation, a draw
passes where its coin is below its acceptance), so that every part of a picture has something true to draw.
"""

import math
import random
from collections.abc import Sequence
from typing import Any

TEXT = (
    "The sky is blue because sunlight meets air and the short waves scatter more than long ones do . So from every "
    "side of the day some blue reaches your eye , while the red light passes on towards the ground below , \n and at "
    "evening the path is longer"
)
WORDS = TEXT.split(" ")
HOSTILE = [
    "<img src=x onerror=\"window.hacked=1\">", "<script>window.hacked=1</script>", "${window.hacked=1}",
    "{{constructor.constructor('window.hacked=1')()}}", "`", "\\", "\\u0000", "\x00", "\u202e", "\u2066", "\n", "\n\n",
    "\t", " ", "    ", "<b>bold</b>", "&lt;", "</span>", "🜏", "\u200b", "é", "مرحبا", "%{customdata}", "<br>",
    "<|im_end|>", "__proto__",
]  # fmt: skip


def trace(
    n: int = 24, *, seed: int = 0, tokens: Sequence[str] | None = None, n_draws: int = 50, vocabulary: int = 49152
) -> dict[str, Any]:
    """One trace of n response tokens as the dictionary that Trace.to_dict writes."""
    rng = random.Random(seed)
    words = list(tokens) if tokens is not None else [(" " if t else "") + WORDS[t % len(WORDS)] for t in range(n)]
    words = [words[t % len(words)] for t in range(n)]
    strings = {str(1000 + t): word for t, word in enumerate(words)}
    filler = list(tokens) if tokens is not None else [" " + word for word in WORDS]
    for other in range(200):
        strings[str(5000 + other)] = filler[other % len(filler)] + (
            "" if tokens is not None else str(other // len(filler) or "")
        )

    def top(own: int, agree: bool) -> tuple[list[int], list[float]]:
        ids = rng.sample(range(5000, 5200), 10)
        place = 0 if agree else rng.choice([0, 0, 1, 2, 5])
        ids[place] = own
        share = rng.uniform(0.25, 0.9)
        return ids, [share * (1 - share) ** j for j in range(10)]

    columns: dict[str, list[Any]] = {name: [] for name in (
        "proposal_ids", "topk_threshold", "speck_threshold", "proposal_teacher_prob", "proposal_student_prob",
        "proposal_acceptance", "token_teacher_prob", "token_student_prob", "token_teacher_rank", "token_student_rank",
        "teacher_entropy", "student_entropy", "hellinger")}  # fmt: skip
    divergence: dict[str, list[float]] = {name: [] for name in (
        "forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "tvd")}  # fmt: skip
    tops: dict[str, dict[str, list[Any]]] = {
        who: {name: [] for name in ("ids", "prob", "other_prob", "other_rank")} for who in ("teacher", "student")
    }
    draws: dict[str, list[Any]] = {"ids": [], "acceptance": [], "coin": []}
    for t in range(n):
        agree = rng.random() < 0.6
        teacher_ids, teacher_prob = top(1000 + t, True)
        student_ids, student_prob = top(1000 + t, agree)
        shared = rng.sample(range(10), 6)
        for slot in shared:  # several of the student's ten are the teacher's too
            if teacher_ids[slot] not in student_ids:
                free = rng.randrange(10)
                if student_ids[free] != 1000 + t:
                    student_ids[free] = teacher_ids[slot]
        proposal = student_ids[0]
        rank = teacher_ids.index(proposal) + 1 if proposal in teacher_ids else int(11 + rng.expovariate(1 / 300))
        p = teacher_prob[rank - 1] if rank <= 10 else teacher_prob[-1] * 10 / rank
        tvd = min(0.999, max(0.01, rng.betavariate(1.3, 2.5) if agree else rng.betavariate(3, 1.4)))
        ids = [rng.choice(student_ids) for _ in range(50)]
        acceptance = [min(1.0, max(0.0, rng.gauss(1 - tvd, 0.2))) for _ in ids]
        coin = [rng.random() for _ in ids]
        passed = [j + 1 for j in range(50) if coin[j] < acceptance[j]]
        columns["proposal_ids"].append(proposal)
        columns["topk_threshold"].append(rank)
        columns["speck_threshold"].append(passed[0] if passed else 51)
        columns["proposal_teacher_prob"].append(p)
        columns["proposal_student_prob"].append(student_prob[0])
        columns["proposal_acceptance"].append(min(1.0, p / student_prob[0]))
        columns["token_teacher_prob"].append(teacher_prob[0])
        columns["token_teacher_rank"].append(1)
        own = student_ids.index(1000 + t) if 1000 + t in student_ids else None
        columns["token_student_prob"].append(student_prob[own] if own is not None else 1e-4)
        columns["token_student_rank"].append(own + 1 if own is not None else 37)
        columns["teacher_entropy"].append(rng.gammavariate(1.5, 0.9))
        columns["student_entropy"].append(rng.gammavariate(2.2, 1.1))
        columns["hellinger"].append(math.sqrt(tvd) * 0.9)
        kl = -math.log(1 - tvd) * rng.uniform(0.6, 1.6)
        for name, factor in (
            ("forward_kl", 1.0),
            ("reverse_kl", 1.3),
            ("jsd", 0.2),
            ("skew_kl", 0.7),
            ("skew_reverse_kl", 0.6),
        ):
            divergence[name].append(kl * factor)
        divergence["tvd"].append(tvd)
        for who, ids_, prob, other in (
            ("teacher", teacher_ids, teacher_prob, student_ids),
            ("student", student_ids, student_prob, teacher_ids),
        ):
            tops[who]["ids"].append(ids_)
            tops[who]["prob"].append(prob)
            tops[who]["other_rank"].append(
                [other.index(i) + 1 if i in other else 11 + rng.randrange(2000) for i in ids_]
            )
            tops[who]["other_prob"].append([prob[j] * rng.random() for j in range(10)])
        if proposal in teacher_ids:
            tops["student"]["other_rank"][-1][0] = rank
        draws["ids"].append(ids[:n_draws])
        draws["acceptance"].append(acceptance[:n_draws])
        draws["coin"].append(coin[:n_draws])

    def ranks(score: Sequence[float], largest_first: bool) -> list[int]:
        order = sorted(range(n), key=lambda t: -score[t] if largest_first else score[t])
        places = [0] * n
        for place, t in enumerate(order):
            places[t] = place + 1
        return places

    prompt = "Why is the sky blue?"
    return {
        "format": "speckd.trace", "version": 1,
        "config": {
            "prompt": prompt, "source": "teacher", "do_sample": False, "max_new_tokens": n, "temperature": 1.0,
            "seed": seed, "k_max": 50, "n_top": 10, "teacher": "packaged", "student": "made up",
            "teacher_sha256": "0" * 64, "student_sha256": "1" * 64, "dtype": "float32", "device": "cpu",
            "vocabulary_size": vocabulary, "speckd": "0", "torch": "0", "transformers": "0",
        },
        "prompt": prompt, "response": "".join(words), "n_prompt": 12,
        "input_ids": list(range(12)) + [1000 + t for t in range(n)], "tokens": words, "strings": strings,
        **columns, "divergence": divergence, "teacher_top": tops["teacher"], "student_top": tops["student"],
        "draws": draws,
        "ranks": {
            "adakd": ranks(columns["hellinger"], True), "student_entropy": ranks(columns["student_entropy"], True),
            "teacher_entropy_low": ranks(columns["teacher_entropy"], False),
            "teacher_entropy_high": ranks(columns["teacher_entropy"], True),
            "random": ranks([rng.random() for _ in range(n)], True),
        },
    }  # fmt: skip


def recording(
    steps: int = 24,
    *,
    gates: Sequence[str] = ("topk:k=5:beta=0.01", "none"),
    tokens: Sequence[str] | None = None,
    n: int = 40,
    probe_every: int = 1,
    prompt: str = "Why is the sky blue?",
    seed: int = 0,
    kept: bool = False,
) -> list[dict[str, Any]]:
    """The events of a made-up run, as speckd.recording writes them: students that learn, each token in its own time.

    A token's rank and TVD fall with the steps, the hard ones later; so acceptance rises as it does in a real run.
    """
    rng = random.Random(seed)
    source = trace(n, seed=seed, tokens=tokens)
    words, fillers = source["tokens"], list(source["strings"].values())
    hardness = [rng.betavariate(1.1, 1.3) for _ in range(n)]
    names = {"topk": "Top-k, k = 5, beta = 0.01", "speck": "Spec-k, k = 5, beta = 0.01", "none": "plain distillation"}
    entropy = [round(rng.gammavariate(1.5, 0.9), 3) for _ in range(n)]
    events: list[dict[str, Any]] = [
        {
            "kind": "start", "racers": [{"gate": gate, "name": names[gate.split(":")[0]]} for gate in gates],
            "steps": steps, "student": "young", "teacher": "packaged", "teacher_sha256": "7ef915c9bf9d", "seed": seed,
            "divergence": "forward_kl", "settings": {"responses": "file", "batch_size": 4},
            "probe": {"prompt": prompt, "tokens": words, "teacher_entropy": entropy},
        }
    ]  # fmt: skip

    def measured(skill: float) -> dict[str, Any]:
        gaps = [max(0.0, hard - skill) + rng.uniform(0, 0.06) for hard in hardness]
        tvd = [round(min(0.99, 0.08 + 0.95 * gap), 4) for gap in gaps]
        draws = [next((j for j in range(1, 51) if rng.random() > x), 51) for x in tvd]
        return {
            "topk_threshold": [max(1, round(math.exp(7 * gap))) for gap in gaps],
            "speck_threshold": draws,
            "divergence": [round(-math.log(1 - x) * 1.4, 4) for x in tvd],
            "tvd": tvd,
            "proposal": [word if gap < 0.1 else rng.choice(fillers) for word, gap in zip(words, gaps, strict=True)],
        }

    def scores(skill: float) -> dict[str, float]:
        divergence = 3.4 * math.exp(-1.1 * skill)
        tar = 0.45 + 0.4 * skill
        return {"divergence": divergence, "tar": tar, "acceptance": tar * 0.72, "agreement": tar * 0.66}

    def answer(who: str, racer: int | None, skill: float, length: int) -> dict[str, Any]:
        found = measured(skill)
        cut = {name: values[:length] for name, values in found.items() if name != "proposal"}
        return {"who": who, "racer": racer, "text": "".join(words[:length]), "tokens": words[:length], **cut}

    reached = {}
    for racer, gate in enumerate(gates):
        pace = 0.55 if gate == "none" else 0.48
        for step in range(steps + 1):
            skill = pace * (1 - math.exp(-2.6 * step / max(1, steps)))
            if step:
                found = scores(skill)
                divergence = found["divergence"] * rng.uniform(0.93, 1.07)
                share = 0.0 if gate == "none" else 0.55 * (1 - found["tar"])
                row = {
                    "step": step, "loss": divergence * (1 - share), "divergence": divergence,
                    "tar": min(1.0, found["tar"] * rng.uniform(0.96, 1.04)), "masked_share": share,
                    "teacher_entropy": 2.2, "student_entropy": 4.1, "grad_norm": rng.uniform(1, 2), "n_tokens": 400.0,
                    "learning_rate": 1e-3 * 0.5 * (1 + math.cos(math.pi * step / steps)),
                    "tokens_per_second": rng.uniform(230, 290),
                }  # fmt: skip
                events.append({"kind": "row", "racer": racer, "row": row})
            if step in (0, steps // 2, steps):
                events.append({"kind": "held_out", "racer": racer, "step": step, "scores": scores(skill)})
            if step % 6 == 0 or step == steps:
                said = f"One answer after {step} steps, and then another one."
                events.append({"kind": "saying", "racer": racer, "step": step, "text": said})
            if step % probe_every == 0 or step == steps:
                events.append({"kind": "probe", "racer": racer, "step": step, **measured(skill)})
        reached[racer] = skill
    told = [answer("teacher", None, 2.0, n), answer("before", None, 0.0, max(1, n // 2))]
    told += [answer("after", racer, skill, max(1, n * 3 // 4)) for racer, skill in reached.items()]
    events.append({"kind": "answers", "prompt": prompt, "answers": told})
    table = [["Held out", "before", *(names[gate.split(":")[0]] for gate in gates)]]
    for label, name in (("Divergence (nats a token)", "divergence"), ("TAR (share of tokens)", "tar")):
        first = scores(0)[name]
        after = [scores(skill)[name] for skill in reached.values()]
        table.append([label, f"{first:.3g}", *(f"{value:.3g} ({value - first:+.3g})" for value in after)])
    text = "Plain distillation reached the lower divergence here; the gate masked 18% of it away."
    events.append({"kind": "verdict", "text": text, "table": table})
    if kept:
        students = [
            {"racer": racer, "value": f"trained:key{racer}", "label": f"trained here: {gate}"}
            for racer, gate in enumerate(gates)
        ]
        files = {f"adapter {racer}": f"kept/key{racer}/{racer}.zip" for racer in reached}
        command = "python -m speckd distill assets/responses/train.jsonl --output runs/race --student young"
        events.append({"kind": "kept", "command": command, "students": students, "files": files})
    return events
