"""Traces and runs as their JSON files have them, and every number, role and claim of a lesson again, by plain loops.

Nothing here calls app/lessons: it is what the lessons are held against.
"""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.app import raw_study

ASSETS = Path(__file__).parents[2] / "assets"
SHIPPED = ("healed", "young", "written-by-the-student", "surely-wrong", "cool", "hot")
SHARES = {
    "tar", "share", "divergence_share", "kept_share", "passes", "fails", "proposal_passes", "proposal_fails",
    "acceptance", "greedy", "p", "q", "outside", "room", "draft_q", "draft_p", "draft_passes", "draft_coin", "taken",
    "pays_from",
}  # fmt: skip


def inf(value: Any) -> float:
    return math.inf if value == "inf" else float(value)


def file(folder: str, name: str) -> "Raw":
    return Raw(json.loads((ASSETS / folder / f"{name}.json").read_text()))


class Raw:
    """A trace or run as the JSON file has it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    @property
    def n(self) -> int:
        return len(self.data["tokens"])

    def word(self, token_id: int) -> str:
        return self.data["strings"].get(str(token_id), f"#{token_id}")

    def column(self, name: str) -> list[float]:
        return [inf(v) for v in (self.data["divergence"][name] if name in self.data["divergence"] else self.data[name])]

    def at(self, named: str) -> int | None:
        """The token of a role, or of a number of the text."""
        return int(named) - 1 if named.isdigit() else self.place(named)

    def place(self, role: str) -> int | None:
        """The token of a role; None where no token of the text has it."""
        d, n = self.data, self.n
        rank, draw, tvd = d["topk_threshold"], d["speck_threshold"], d["divergence"]["tvd"]
        fkl, rkl, h, hs = (self.column(c) for c in ("forward_kl", "reverse_kl", "teacher_entropy", "student_entropy"))
        mean_f, mean_h = sum(fkl) / n, sum(h) / n
        top, other = d["teacher_top"]["prob"], d["teacher_top"]["other_prob"]
        q, own = d["proposal_student_prob"], d["token_teacher_rank"]
        text = d["tokens"]
        mine = [self.word(i) for i in d["proposal_ids"]]
        best = [self.word(ids[0]) for ids in d["teacher_top"]["ids"]]
        same = [a.strip().lower() == b.strip().lower() for a, b in zip(mine, best, strict=True)]
        said = [a.strip().lower() == b.strip().lower() for a, b in zip(mine, text, strict=True)]
        keeps = sum(r <= 5 for r in rank)
        turn = d["ranks"]["student_entropy"]

        def sure(t: int) -> bool:
            return top[t][0] >= 0.7 and h[t] < mean_h

        def heavy(t: int) -> bool:
            return fkl[t] >= 1.1 * mean_f

        rules: dict[str, tuple[Callable[[int], bool], Callable[[int], float]]] = {  # which may, and the smallest wins
            "first": (lambda t: True, lambda t: t),
            "most_loss": (lambda t: True, lambda t: -fkl[t]),
            "middling_loss": (lambda t: abs(fkl[t] - mean_f) <= 0.2 * mean_f, lambda t: abs(fkl[t] - mean_f)),
            "unsure": (lambda t: top[t][0] <= 0.3 and h[t] > mean_h and not same[t], lambda t: -h[t]),
            "sure_together": (lambda t: sure(t) and rank[t] == 1 and other[t][0] >= 0.7, lambda t: tvd[t]),
            "sure_miss": (lambda t: sure(t) and heavy(t) and own[t] == 1 and not same[t] and rank[t] > 5
                          and other[t][0] < 0.1 and hs[t] > h[t] + 0.5, lambda t: h[t]),
            "heavy_unsure": (lambda t: heavy(t) and h[t] > 1.1 * mean_h and top[t][0] < 0.5, lambda t: -h[t]),
            "second": (lambda t: rank[t] == 2 and not same[t] and not said[t], lambda t: -q[t]),
            "near_miss": (lambda t: 6 <= rank[t] <= 10 and not same[t], lambda t: rank[t]),
            "far_miss": (lambda t: rank[t] > 50 and not same[t], lambda t: -rank[t]),
            "own_word": (lambda t: rank[t] > 5 and own[t] == rank[t] and said[t] and not same[t],
                         lambda t: -top[t][0]),
            "other_word": (lambda t: 2 <= rank[t] <= 5 and not same[t] and not said[t], lambda t: -q[t]),
            "late_coin": (lambda t: 3 <= draw[t] <= 5 and 0.55 <= tvd[t] <= 0.85, lambda t: abs(tvd[t] - 0.75)),
            "early_coin": (lambda t: draw[t] == 1 and tvd[t] >= 0.7, lambda t: -tvd[t]),
            "close": (lambda t: draw[t] == 1 and 0.1 <= tvd[t] <= 0.35, lambda t: tvd[t]),
            "lucky": (lambda t: rank[t] > 5 and draw[t] <= 5 and not same[t], lambda t: -rank[t]),
            "unlucky": (lambda t: rank[t] <= 5 and draw[t] > 5, lambda t: -draw[t]),
            "half_open": (lambda t: 0.38 <= tvd[t] <= 0.62, lambda t: abs(tvd[t] - 0.5)),
            "torn": (lambda t: top[t][0] >= 0.9 and hs[t] >= 2 and rkl[t] >= 1.2 * fkl[t] and rkl[t] < math.inf,
                     lambda t: fkl[t] - rkl[t]),
            "missed": (lambda t: top[t][0] >= 0.5 and other[t][0] <= 0.02 and fkl[t] >= 1.2 * rkl[t]
                       and fkl[t] < math.inf, lambda t: -fkl[t]),
            "hidden_lesson": (lambda t: rank[t] > 5 and turn[t] <= keeps, lambda t: turn[t]),
            "easy_keep": (lambda t: rank[t] <= 5 and turn[t] > keeps, lambda t: -turn[t]),
            "wrong_digit": (lambda t: self._wrong(t) and sure(t) and rank[t] <= 5 and not same[t], lambda t: t),
        }  # fmt: skip
        may, score = rules[role]
        winner = None
        for t in range(n):
            quotable = all(
                w.strip() and "\ufffd" not in w and w[:2] != "<|" and w[:1] != "#" for w in (text[t], mine[t], best[t])
            )
            if quotable and may(t) and (winner is None or score(t) < score(winner)):
                winner = t
        return winner

    def _wrong(self, t: int) -> bool:
        numbers = re.fullmatch(r"What is (\d+) \+ (\d+)\?", self.data["prompt"])
        text = [word.strip() for word in self.data["tokens"]]
        if not numbers or not text[t].isdigit() or (t and text[t - 1].isdigit()):
            return False
        end = t
        while end + 1 < self.n and text[end + 1].isdigit():
            end += 1
        later = any(word.isdigit() for word in text[end + 1 :])
        return not later and text[t] != str(int(numbers[1]) + int(numbers[2]))[0]

    def accepted(self, gate: str, k: int) -> list[bool]:
        if gate == "none":
            return [True] * self.n
        return [threshold <= k for threshold in self.data[f"{gate}_threshold"]]

    def tar(self, gate: str, k: int) -> float:
        count = 0
        for ok in self.accepted(gate, k):
            count += ok
        return count / self.n

    def loss(self, knobs: dict[str, Any]) -> float:
        total = 0.0
        accepted = self.accepted(knobs["gate"], knobs["k"])
        for value, ok in zip(self.column(knobs["divergence"]), accepted, strict=True):
            weight = 1.0 if ok else float(knobs["beta"])
            total += weight * value if weight else 0.0
        return total / self.n

    def kept(self, selector: str, gate: str, k: int) -> list[bool]:
        if selector == "gate":
            return self.accepted(gate, k)
        budget = sum(self.accepted(gate, k))
        return [rank <= budget for rank in self.data["ranks"][selector]]

    def share_kept(self, selector: str, knobs: dict[str, Any]) -> float:
        values = self.column(knobs["divergence"])
        kept = self.kept(selector, knobs["gate"], knobs["k"])
        return sum(v for v, ok in zip(values, kept, strict=True) if ok) / sum(values)

    def jaccard(self, selector: str, knobs: dict[str, Any]) -> float:
        both = either = 0
        for a, b in zip(self.accepted(knobs["gate"], knobs["k"]), self.kept(selector, knobs["gate"], knobs["k"]),
                        strict=True):  # fmt: skip
            both += a and b
            either += a or b
        return both / either if either else 1.0

    # a run

    def series(self, quantity: str, racer: int, of: str, k: int = 5) -> list[tuple[int, float]]:
        points = []
        for event in self.data["events"]:
            if event["kind"] != of or event["racer"] != racer:
                continue
            if of == "row" and quantity in event["row"]:
                points.append((event["row"]["step"], event["row"][quantity]))
            if of == "held_out":
                points.append((event["step"], event["scores"][quantity]))
            if of == "probe":
                hits = [threshold <= k for threshold in event["topk_threshold"]]
                points.append((event["step"], sum(hits) / len(hits)))
        return sorted(points)


# --- a field, by loops ------------------------------------------------------------------------------------------------


def material(state: dict[str, Any]) -> "Raw":
    """What a step shows; of a step that shows the study, nothing but its table."""
    if "study" in state:
        return Raw({"tokens": [], "events": []})
    if "decoding" in state:
        return file("decode/recorded", state["decoding"])
    return file("traces", state["trace"]) if "trace" in state else file("runs", state["run"])


def field(raw: Raw, spec: str, knobs: dict[str, Any], pin: str) -> float | None:
    """What a field is worth, from the JSON alone; None where the text has no such token."""
    name, *rest = spec.split()
    args: dict[str, str] = dict(part.split("=", 1) for part in rest)
    if name.startswith("study_") or name == "masked":
        return raw_study.field(name, args)
    if "rounds" in raw.data:
        return _of_a_decoding(file("decode/recorded", args["of"]).data if "of" in args else raw.data, name, args)
    knobs = {**knobs, **{key: args.pop(key) for key in list(args) if key in knobs}}
    knobs["k"], knobs["beta"] = int(knobs["k"]), float(knobs["beta"])
    if "recorded" in args:
        raw = file("runs", args["recorded"])
    if "events" in raw.data:
        return _of_a_run(raw, name, args, knobs)
    if "text" in args:
        raw = file("traces", args["text"])
    if name in ("block", "speedup", "block_gain", "acceptance"):
        return _of_speed(raw, name, args)
    whole = _of_a_text(raw, name, args, knobs)
    if whole is not None:
        return whole
    t = raw.at(args.get("at", pin))
    return None if t is None else _of_a_token(raw, name, args, knobs, t)


def _of_a_text(raw: Raw, name: str, args: dict[str, str], knobs: dict[str, Any]) -> float | None:
    if name == "mean":
        column = raw.column(knobs["divergence"] if args["of"] == "divergence" else args["of"])
        wanted, kept = args.get("which", "all"), raw.accepted(knobs["gate"], knobs["k"])
        chosen = [v for v, ok in zip(column, kept, strict=True) if wanted == "all" or ok == (wanted == "accepted")]
        return sum(chosen) / len(chosen) if chosen else math.nan
    if name == "tar":
        return raw.tar(knobs["gate"], knobs["k"])
    if name == "tar_gain":
        return raw.tar(knobs["gate"], int(args["until"])) - raw.tar(knobs["gate"], int(args["since"]))
    if name == "loss" or name == "blend":
        return raw.loss(knobs)
    if name == "plain":
        return raw.loss({**knobs, "gate": "none"})
    if name == "multiple":
        return float(args["of"]) * raw.loss(knobs)
    if name == "kept_share":
        return raw.share_kept(args["selector"], knobs)
    if name == "divergence_share":
        values = sorted(raw.column(knobs["divergence"]))
        return sum(values[len(values) - int(args["top"]) :]) / sum(values)
    if name == "greedy":
        pairs = zip(raw.data["proposal_ids"], raw.data["teacher_top"]["ids"], strict=True)
        return sum(mine == ids[0] for mine, ids in pairs) / raw.n
    return None


def _of_a_token(raw: Raw, name: str, args: dict[str, str], knobs: dict[str, Any], t: int) -> float:
    d = raw.data
    tvd = d["divergence"]["tvd"][t]
    if name == "entropy":
        return d[f"{args.get('of', 'teacher')}_entropy"][t]
    if name == "tvd":
        return tvd
    if name == "p" and args["of"] == "favourite":
        return max(d["teacher_top"]["prob"][t])
    if name == "outside":
        rest = 1.0
        for probability in d["teacher_top"]["prob"][t]:
            rest -= probability
        return rest
    if name == "divergence":
        return raw.column(knobs["divergence"])[t]
    if name == "share":
        values = raw.column(knobs["divergence"])
        return values[t] / sum(values)
    if name == "proposal_passes":
        return d["proposal_acceptance"][t]
    if name == "proposal_fails":
        return 1 - d["proposal_acceptance"][t]
    if name == "passes":
        return 1 - tvd ** int(args.get("draws", 1))
    if name == "fails":
        return tvd ** int(args.get("draws", 1))
    if name in ("coin", "bar"):
        return d["draws"]["coin" if name == "coin" else "acceptance"][t][int(args.get("draw", 1)) - 1]
    raise AssertionError(f"no separate computation of {name}")


def _of_speed(raw: Raw, name: str, args: dict[str, str]) -> float:
    def tokens_a_round(a: float, g: int) -> float:  # one for the teacher's token, and a^j for the j-th drafted one
        return sum(a**j for j in range(g + 1))

    chances = [1 - value for value in raw.data["divergence"]["tvd"]]
    mean = sum(chances) / len(chances)
    if name == "acceptance":
        return mean
    if name == "block_gain":
        return tokens_a_round(float(args["until"]), 4) - tokens_a_round(float(args["since"]), 4)
    g = int(args.get("draft", 4))
    return tokens_a_round(mean, g) / (0.25 * g + 1 if name == "speedup" else 1)


def _of_a_run(raw: Raw, name: str, args: dict[str, str], knobs: dict[str, Any]) -> float:
    racer = int(args.get("racer", 0))
    if name == "gap":
        ends = [raw.series(args["quantity"], i, "held_out")[-1][1] for i in (0, 1)]
        return abs(ends[0] - ends[1])
    if name == "seeds":
        gaps = json.loads((ASSETS / "runs" / "seed-spread.json").read_text())["differences"]["divergence"]
        return (max(gaps) - min(gaps)) / 2
    if name == "probe_mean":
        start = raw.data["events"][0]["probe"][args["of"]]
        last = [e for e in raw.data["events"] if e["kind"] == "probe" and e["racer"] == racer][-1]["topk_threshold"]
        chosen = [
            v for v, rank in zip(start, last, strict=True) if (rank <= knobs["k"]) == (args["which"] == "accepted")
        ]
        return sum(chosen) / len(chosen)
    of = "row" if name == "part" else args.get("of", "held_out")
    points = dict(raw.series(args["quantity"], racer, of))
    named = {"first": min(points), "last": max(points)}

    def at(step: str) -> float:
        return points[named[step] if step in named else int(step)]

    if name == "change":
        return at(args["until"]) - at(args["since"])
    value = at(args.get("step", "last"))
    return {"run": value, "room": 1 - value, "part": float(args.get("of", 0)) * value if name == "part" else 0.0}[name]


def _of_a_decoding(d: dict[str, Any], name: str, args: dict[str, str]) -> float:
    if name.startswith("draft_"):  # of the rejected token that the draft was surest of
        failed = [(step["draft_probs"][i], -n, i) for n, step in enumerate(d["rounds"])
                  for i, verdict in enumerate(step["verdicts"]) if verdict == "rejected"]  # fmt: skip
        q, n, i = max(failed)
        step = d["rounds"][-n]
        p = step["teacher_probs"][i]
        return {"draft_q": q, "draft_p": p, "draft_passes": min(1.0, p / q), "draft_coin": step["coins"][i]}[name]
    n_tokens = len(d["output_ids"])
    if name == "per_pass":
        return n_tokens / len(d["rounds"])
    if name == "faster":
        return d["plain_seconds"] / d["seconds"]
    if name == "taken":  # of a chain: what passed, and the one that did not
        passed = [step["verdicts"].count("accepted") for step in d["rounds"]]
        return sum(passed) / (sum(passed) + sum("rejected" in step["verdicts"] for step in d["rounds"]))
    rows, prices, c = d["costs"]["rows"], d["costs"]["verify"], d["costs"]["draft"]

    def v(n: int) -> float:
        below = max(i for i, row in enumerate(rows) if row <= n)
        if rows[below] == n:
            return prices[below]
        part = (n - rows[below]) / (rows[below + 1] - rows[below])
        return (1 - part) * prices[below] + part * prices[below + 1]

    if name == "pass_cost":
        return v(int(args["rows"]))
    if name == "pays_from":  # (1 + a) tokens for the price of two rows and a step of the draft
        return v(2) + c - 1
    place, thrown, price = 0, 0, 0.0
    kind, _, knob = args["policy"].partition(":")
    limit = float(knob.partition("=")[2])
    while place < n_tokens:
        said, room = d["continuations"][place], n_tokens - place - 1
        if n_tokens < d["config"]["max_new_tokens"]:
            room = 99
        n = steps = 0
        most = min(room, int(limit) if kind == "fixed" else 8)
        while n < min(most, len(said)):
            steps += 1
            if kind == "confidence" and said[n][2] < limit:
                break
            n += 1
        passed = 0
        while passed < n and place + passed < n_tokens - 1 and said[passed][0] == d["output_ids"][place + passed]:
            passed += 1
        thrown += n - passed
        price += v(n + 1) + c * steps
        place += passed + 1
    return thrown if name == "replay_thrown" else n_tokens / price


# --- a claim, by loops ------------------------------------------------------------------------------------------------


def holds(raw: Raw, claim: str, knobs: dict[str, Any], pin: str) -> bool:
    """Whether a claim is true of a text or run; false, too, where it has no such token."""
    return all(_holds(raw, one.strip(), dict(knobs), pin) for one in claim.split(";"))


def _holds(raw: Raw, claim: str, knobs: dict[str, Any], pin: str) -> bool:
    for word in (" above ", " below ", " near "):
        if word in claim:
            left, right = claim.split(word)
            a = field(raw, left, knobs, pin)
            b = float(right) if re.fullmatch(r"[\d.]+", right) else field(raw, right, knobs, pin)
            if a is None or b is None:
                return False
            shares = left.split()[0] in SHARES or "quantity=tar" in left
            near = abs(a - b) < 0.01 if shares else abs(a - b) < 0.02 * max(abs(a), abs(b)) or a == b
            return near if word == " near " else not near and (a > b) == (word == " above ")
    name, *rest = claim.split()
    args = dict(part.split("=", 1) for part in rest)
    if name in ("helps", "hurts", "unseen"):
        return bool(raw_study.cell(args)["alone"] == name)
    t = raw.at(args.get("at", pin))
    if t is None:
        return False
    k, gate = int(args.get("k", knobs["k"])), args.get("gate", knobs["gate"])
    d, n = raw.data, raw.n
    p = d["teacher_top"]["prob"][t][0]
    entropies, losses = d["teacher_entropy"], raw.column("forward_kl")
    truth: dict[str, Callable[[], bool]] = {
        "role": lambda: True,
        "accepted": lambda: raw.accepted(gate, k)[t],
        "rejected": lambda: not raw.accepted(gate, k)[t],
        "sure": lambda: p >= 0.7 and entropies[t] < sum(entropies) / n,
        "unsure": lambda: p <= 0.3 and entropies[t] > sum(entropies) / n,
        "heavy": lambda: losses[t] >= 1.1 * sum(losses) / n,
    }
    return truth[name]()
