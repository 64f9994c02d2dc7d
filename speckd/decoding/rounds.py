"""Speculative decoding, round by round, in the papers' order: draft, verify, commit.

Between rounds the teacher's cache holds every token of the text but the last, whose row is fed together with the
drafted ones: a pass over [last token, node 0, node 1, ...] gives the teacher's distribution after each of them. Then
the cache is cut back to the accepted path.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from speckd.decoding.coins import Coins
from speckd.decoding.drafts import Draft, Nodes
from speckd.decoding.forward import Forward
from speckd.decoding.policies import ChainRule, DynamicDepth, Policy, Tree, logsumexp
from speckd.decoding.verification import (
    Near,
    Pick,
    Verdict,
    probabilities,
    verify_chain,
    verify_greedy,
    verify_picks,
    verify_tree,
)
from speckd.draws import Stream
from speckd.jobs import ShouldStop, Stopped

PREFILL_ROWS = 512  # rows of a prompt that are read at a time, so that a long one can be stopped within


@dataclass(frozen=True)
class Rule:
    """How a text is written.

    Attributes:
        coins: the uniforms of a sampled text; None is greedy.
        pick: plain decoding's own choice, for a text that has to equal it; it comes before coins.
        near: where that choice hangs on a rounding: a one-row pass decides, as in a near tie.
        temperature: of p and q, for a sampled text.
        near_tie: greedy leads up to this, in logits, are decided by a one-row pass.
        lenience: 1 is lossless.
    """

    coins: Coins | None = None
    pick: Pick | None = None
    near: Near | None = None
    temperature: float = 1.0
    near_tie: float = 0.0
    lenience: float = 1.0

    @property
    def draws(self) -> bool:
        return self.coins is not None and self.pick is None

    @property
    def draft_temperature(self) -> float:
        return self.temperature


@dataclass
class Drafted:
    """The tokens of one round before the teacher has seen them.

    Attributes:
        tokens, parents: of the nodes, in the order in which they are verified.
        logprobs: log q of each, given its path.
        paths: log q of each node's whole path.
        draft_nodes: the draft's own number of each, None where the draft was not run on it.
        confidences: the largest probability of q at each node's place.
        rows: the draft's (V',) logits at each node's place.
        steps: runs of the draft, the one that took in the text's new tokens included; 0 where it looked them up.
        checks: (step, value) of each question about the depth.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    paths: list[float] = field(default_factory=list)
    draft_nodes: list[int | None] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    probabilities: list[Tensor] = field(default_factory=list)  # (V,) float64 a node, of a chain that was drawn
    steps: int = 0
    checks: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class Round:
    """One finished round.

    Attributes:
        start: place in the response of its first token.
        drafted, verdict: see there.
        output: the tokens that it added to the text.
        logits: (n + 1, V) of the teacher, row 0 after the text, row i + 1 after node i.
        hidden: (len(output), H), the teacher's states that predicted the output.
        near_tie: whether a one-row pass decided its last token.
        draft_seconds, verify_seconds: by the clock.
        floors: of drafts with several levels, what happened at each: see exits.py.
    """

    start: int
    drafted: Drafted
    verdict: Verdict
    output: list[int]
    logits: Tensor
    hidden: Tensor
    near_tie: bool
    draft_seconds: float
    verify_seconds: float
    floors: list[dict[str, Any]] = field(default_factory=list)


class Rounds:
    """The rounds of one text: iterate over it.

    Args:
        target: the teacher's forward, empty.
        draft: what proposes, with nothing read yet; None decodes plainly.
        rule: greedy, sampled or as plain decoding would write.
        policy_rule: how far a chain goes on; for a tree policy its own.
        tree: the policy, where it is a tree.
        prompt_ids: at least one token.
        max_new_tokens: longest response, its stop token included.
        stops: tokens that end it.
        clock: as in ``clock_named``; the least disturbed one by default.
        should_stop: asked before each step of the draft and before each pass of the teacher.
    Raises:
        Stopped: while iterating. The rounds that were yielded stand.
    """

    def __init__(
        self,
        target: Forward,
        draft: Draft | None,
        rule: Rule,
        policy: Policy,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        *,
        costs: Any = None,
        stops: Sequence[int] = (),
        clock: str | None = None,
        should_stop: ShouldStop | None = None,
    ) -> None:
        assert len(prompt_ids) and max_new_tokens > 0
        self.target, self.draft, self.rule, self.policy = target, draft, rule, policy
        self.chain_rule: ChainRule = policy.begin(costs)
        self.prompt_ids, self.max_new_tokens, self.stops = list(prompt_ids), max_new_tokens, frozenset(stops)
        self.should_stop = should_stop or (lambda: False)
        self.response: list[int] = []
        self.prefill_seconds = 0.0
        # A draft that leaves the teacher early has run the first layers of some rows already.
        self._feed: Callable[..., Tensor] = getattr(draft, "feed_teacher", target.feed)
        self._news: list[int] = []
        self._features: list[Tensor] = []
        self._nodes: list[int] = []
        self._now = clock_named(clock or best_clock(target.device), target.device)

    def __iter__(self) -> Iterator[Round]:
        began = self._now()
        self._ask()
        self.pending = self.prompt_ids[-1]
        # What the draft has not read yet: tokens, the states that predicted them, and how many of the tokens are nodes
        # that it ran on itself in its last round.
        self._news, self._nodes = list(self.prompt_ids), []
        self._features = self._prefill()
        self.prefill_seconds = self._now() - began
        while len(self.response) < self.max_new_tokens:
            done = self._round()
            yield done
            if done.output[-1] in self.stops:
                return

    def _prefill(self) -> list[Tensor]:
        """The teacher reads the prompt without its last token; the states that predicted each prompt token."""
        states = [torch.zeros((1, self.target.width), dtype=self.target.dtype, device=self.target.device)]
        read = self.prompt_ids[:-1]
        for first in range(0, len(read), PREFILL_ROWS):
            self._ask()
            states.append(self._feed(read[first : first + PREFILL_ROWS]))
        return states

    def _ask(self) -> None:
        if self.should_stop():
            raise Stopped

    # --- one round --------------------------------------------------------------------------------------------------

    def _round(self) -> Round:
        start = len(self.response)
        self._ask()
        began = self._now()
        drafted = self._propose(start)
        proposed = self._now()
        self._ask()
        base = self.target.length
        logits, hidden = self._teacher_rows(drafted, base)
        verdict = self._verify(drafted, logits, start)
        rows = [0, *(node + 1 for node in verdict.path)]
        predicting = hidden[rows]
        near_tie = verdict.undecided is not None
        if near_tie:
            self.target.keep(base, rows[:-1])
            token = self.pending if verdict.undecided == -1 else drafted.tokens[verdict.path[-1]]
            last = self._feed([token])
            row, place = self.target.logits(last)[0], start + len(verdict.path)
            verdict.token = int(row.argmax()) if self.rule.pick is None else self.rule.pick(row, place)
            predicting = torch.cat([predicting[:-1], last])
        else:
            self.target.keep(base, rows)
        output = [drafted.tokens[node] for node in verdict.path] + [verdict.token]
        cut = next((place + 1 for place, token in enumerate(output) if token in self.stops), len(output))
        output, predicting = output[:cut], predicting[:cut]
        examined = len(verdict.path) + bool(verdict.rejected)
        self.chain_rule.learn(drafted.confidences, len(verdict.path), examined)
        self.response += output
        self.pending = output[-1]
        self._news += output
        self._features.append(predicting)
        # A node's ancestors were run before it, so those of the accepted path that the draft ran on come first.
        self._nodes += [node for place in verdict.path if (node := drafted.draft_nodes[place]) is not None]
        finished = self._now()
        return Round(
            start, drafted, verdict, output, logits, predicting, near_tie, proposed - began, finished - proposed
        )

    def _teacher_rows(self, drafted: Drafted, base: int) -> tuple[Tensor, Tensor]:
        """One pass over the text's last token and all nodes: (n + 1, V) logits and (n + 1, H) states."""
        ids = [self.pending, *drafted.tokens]
        if all(parent == node - 1 for node, parent in enumerate(drafted.parents)):
            hidden = self._feed(ids)
        else:
            tree = Nodes.empty()
            tree.add([-1])  # the pending token is everybody's ancestor
            tree.add([parent + 1 for parent in drafted.parents])
            hidden = self._feed(ids, [base + depth - 1 for depth in tree.depths], tree.mask(range(len(ids))))
        return self.target.logits(hidden), hidden

    def _verify(self, drafted: Drafted, logits: Tensor, start: int) -> Verdict:
        rule, tokens, parents = self.rule, drafted.tokens, drafted.parents
        if rule.pick is not None:
            return verify_picks(tokens, parents, logits, start, rule.pick, rule.near if tokens else None)
        if rule.coins is None:
            near_tie = rule.near_tie if tokens else -1.0  # a pass over one row is what decides near ties
            return verify_greedy(tokens, parents, logits, near_tie, rule.lenience)
        if self.policy.tree:
            return verify_tree(tokens, parents, logits, rule.coins, start, rule.temperature, rule.lenience)
        return verify_chain(tokens, drafted.probabilities, logits, rule.coins, start, rule.temperature, rule.lenience)

    # --- drafting ---------------------------------------------------------------------------------------------------

    def _propose(self, start: int) -> Drafted:
        room = self.max_new_tokens - start - 1  # one token of the round is always the teacher's own
        most = min(self.chain_rule.most, room)
        drafted = Drafted()
        if self.draft is None or most <= 0 or not self.chain_rule.looks(0, 0.0):
            return drafted
        features = torch.cat(self._features) if self.draft.wants_features else None
        row = self.draft.commit(self._news, features, self._nodes)
        self._news, self._features, self._nodes = [], [], []
        drafted.steps = 1
        if row is None:
            return drafted
        if isinstance(self.policy, Tree):
            drafted = self._grow_tree(row, drafted, most, self.policy)
        else:
            drafted = self._grow_chain(row, drafted, most, start)
        if getattr(self.draft, "looked_up", False):
            drafted.steps = 0
        return drafted

    def _grow_chain(self, row: Tensor, drafted: Drafted, most: int, start: int) -> Drafted:
        draft, rule, goes = self.draft, self.rule, self.chain_rule
        assert draft is not None
        log_path = 0.0
        while True:
            n_drafted = len(drafted.tokens)
            logprobs = log_softmax(row, rule.draft_temperature)  # (V',)
            place = int(logprobs.argmax())
            confidence = float(logprobs[place].exp())
            if not goes.takes(n_drafted, log_path, confidence):
                return drafted
            if rule.pick is not None:
                place = rule.pick(
                    row, start + n_drafted
                )  # the same uniform on q: where p and q agree, so do the tokens
            elif rule.draws:
                assert rule.coins is not None
                q = probabilities(row, rule.temperature)
                place = rule.coins.draw(q, Stream.DRAFT, start, n_drafted)
                whole = spread(q, draft.vocabulary, self.target.vocabulary_size)
                drafted.probabilities.append(whole.to(self.target.device))
            token = place if draft.vocabulary is None else int(draft.vocabulary[place])
            log_path += float(logprobs[place])
            drafted.tokens.append(token)
            drafted.parents.append(n_drafted - 1)
            drafted.logprobs.append(float(logprobs[place]))
            drafted.paths.append(log_path)
            drafted.confidences.append(confidence)
            drafted.rows.append(row)
            drafted.draft_nodes.append(None)
            # A drafted stop token is verified like any other; only nothing is drafted after it.
            if n_drafted + 1 >= most or token in self.stops or not goes.looks(n_drafted + 1, log_path):
                return drafted
            self._ask()
            row = draft.extend([token], [n_drafted - 1])[0]
            drafted.draft_nodes[-1] = n_drafted
            drafted.steps += 1
            if bool(torch.isneginf(row).all()):  # it has nothing more to say
                return drafted

    def _grow_tree(self, row: Tensor, drafted: Drafted, most: int, policy: Tree) -> Drafted:
        """Beams to some depth, then the best nodes by the probability of their path (EAGLE-2)."""
        draft = self.draft
        assert draft is not None
        found = Drafted(steps=1)  # every candidate, in the order in which it was found
        beam = self._children(row[None], [-1], found, policy.width)
        for step in range(1, most + 1):
            if not beam:  # it had nothing more to say
                break
            if policy.checks(step) and isinstance(policy, DynamicDepth):
                value = logsumexp([found.paths[node] for node in beam])
                found.checks.append((step, value))
                if policy.stops(value):
                    break
            beam = [node for node in beam if found.tokens[node] not in self.stops]
            if step == most or not beam:
                break
            self._ask()
            parents = [found.draft_nodes[found.parents[node]] if found.parents[node] >= 0 else -1 for node in beam]
            known = sum(node is not None for node in found.draft_nodes)
            rows = draft.extend([found.tokens[node] for node in beam], [p if p is not None else -1 for p in parents])
            for place, node in enumerate(beam):
                found.draft_nodes[node] = known + place
            found.steps += 1
            beam = self._children(rows, beam, found, policy.width)
        return best_nodes(found, policy.nodes, policy.p)

    def _children(self, rows: Tensor, parents: Sequence[int], found: Drafted, width: int) -> list[int]:
        """Add the ``width`` likeliest children of each parent; the likeliest of all by path are the next beam."""
        draft = self.draft
        assert draft is not None
        added = []
        values, places = log_softmax(rows, self.rule.draft_temperature).topk(min(width, rows.shape[-1]), -1)
        ids = places if draft.vocabulary is None else draft.vocabulary[places]
        for row, parent, best, tokens in zip(rows, parents, values.tolist(), ids.tolist(), strict=True):
            above = found.paths[parent] if parent >= 0 else 0.0
            for value, token in zip(best, tokens, strict=True):
                if value == -float("inf"):
                    continue
                added.append(len(found.tokens))
                found.tokens.append(token)
                found.parents.append(parent)
                found.logprobs.append(value)
                found.paths.append(above + value)
                found.draft_nodes.append(None)
                found.confidences.append(math.exp(best[0]))
                found.rows.append(row)
        return sorted(added, key=lambda node: -found.paths[node])[:width]


def best_nodes(found: Drafted, most: int, p: float = 0.0) -> Drafted:
    """The likeliest nodes of a tree by path, parents before children, siblings likeliest first; none below p.

    A path is never likelier than its beginning, and of equals the earlier found comes first: so the chosen nodes are a
    tree themselves.
    """
    likely = [node for node, path in enumerate(found.paths) if p == 0.0 or path >= math.log(p)]
    order = sorted(likely, key=lambda node: (-found.paths[node], node))[:most]
    chosen = sorted(order, key=lambda node: (_depth(found.parents, node), -found.paths[node], node))
    place = {node: index for index, node in enumerate(chosen)}
    return Drafted(
        tokens=[found.tokens[node] for node in chosen],
        parents=[place[found.parents[node]] if found.parents[node] >= 0 else -1 for node in chosen],
        logprobs=[found.logprobs[node] for node in chosen],
        paths=[found.paths[node] for node in chosen],
        draft_nodes=[found.draft_nodes[node] for node in chosen],
        confidences=[found.confidences[node] for node in chosen],
        rows=[found.rows[node] for node in chosen],
        steps=found.steps,
        checks=found.checks,
    )


def _depth(parents: Sequence[int], node: int) -> int:
    depth = 0
    while node >= 0:
        depth, node = depth + 1, parents[node]
    return depth


def log_softmax(row: Tensor, temperature: float) -> Tensor:
    """log q of a row of the draft, or of several, float32 or better."""
    return torch.log_softmax(row if temperature == 1.0 else row / temperature, -1)


def spread(q: Tensor, vocabulary: Tensor | None, vocabulary_size: int) -> Tensor:
    """q over a cut vocabulary as q over all V tokens: 0 where it has no row."""
    if vocabulary is None:
        return q
    whole = torch.zeros(vocabulary_size, dtype=q.dtype, device=q.device)
    whole[vocabulary.to(q.device)] = q
    return whole


def best_clock(device: torch.device) -> str:
    """The clock that others on the machine disturb least: "cpu" for one thread on a CPU; several threads work at once,
    and a GPU beside the process, so there it is "wall"."""
    return "cpu" if device.type == "cpu" and torch.get_num_threads() == 1 else "wall"


def clock_named(name: str, device: torch.device) -> Callable[[], float]:
    """A clock in seconds: "cpu", the time that this process worked, or "wall", on a GPU when it has done its work."""
    if name == "cpu":
        return time.process_time
    if device.type != "cuda":
        return time.perf_counter

    def now() -> float:
        with contextlib.suppress(RuntimeError):
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now
