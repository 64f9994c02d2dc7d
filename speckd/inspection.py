"""Run a pair over one text, once, and measure everything that a gate, a picture or a lesson may ask of it.

p is the teacher, q the student. Rows are the response tokens y_1..y_n; the distributions of row t come from the hidden
state one position earlier. Rows are walked in chunks: (rows, vocabulary) is never held in full.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from speckd import divergences as div
from speckd.conversations import encode_prompt, encode_turn
from speckd.data import token_text
from speckd.decoding.exact import draft_for
from speckd.draws import K_MAX, Draws, answer_uniforms, draw_and_verify, row_uniforms
from speckd.heads import Head, hidden_rows, positions_of, trunk_of
from speckd.jobs import OnProgress, Progress, ShouldStop, Stopped
from speckd.pairs import Model, Pair, check_ids
from speckd.ranks import rank_of, top_tokens
from speckd.rollouts import Sampling, generate_batch
from speckd.trace import TopTokens, Trace, selector_ranks

N_TOP = 10
CHUNK_ROWS = 128  # rows projected at a time: enough that reading the head's matrix is not what takes the time
BLOCK_ROWS = 16  # rows measured at a time: 3 MB a buffer of 49,152 float32, so that a block's few buffers stay near
SOURCES = ("teacher", "student", "given")


def inspect(
    pair: Pair,
    prompt: str,
    *,
    response: str | None = None,
    source: str | None = None,
    do_sample: bool = False,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    prefix_ids: Sequence[int] | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Trace:
    """What teacher and student make of each token of one response.

    Args:
        pair: from ``load_pair``.
        prompt: the question, put into the pair's chat template.
        response: a given response; otherwise ``source`` writes one.
        source: "teacher" (default), "student", or "given" (needs ``response``).
        do_sample: draw the response from the model at the temperature; otherwise greedy.
        max_new_tokens: the longest response that is written, 1 or more.
        temperature: tau > 0, divides both models' logits everywhere: response, gate and divergences.
        seed: names the sampled response, the draws and their coins.
        prefix_ids: token ids that a written response begins with, such as a clicked alternative.
        chat_template_kwargs: switches of the chat template, such as {"enable_thinking": False}.
        on_progress: called with a Progress: stages "generate" (text: the response so far), "teacher", "student",
            "measure".
        should_stop: asked often; when it turns true the work ends.
    Returns:
        The trace, the same for the same arguments and machine.
    Raises:
        ValueError: an argument makes no sense; the text is empty or longer than the models' context.
        Stopped: ``should_stop`` turned true.
    """
    # Long: one text from prompt to trace, told in the order in which it happens.
    report = on_progress or (lambda _: None)
    stopping = should_stop or (lambda: False)
    source = check_request(prompt, response, source, max_new_tokens, temperature, seed)
    messages = [{"role": "user", "content": prompt}]
    prompt_ids = encode_prompt(pair.tokenizer, messages, chat_template_kwargs)
    forced = [int(token_id) for token_id in prefix_ids or []]
    if any(not 0 <= token_id < pair.vocabulary_size for token_id in forced):
        raise ValueError(f"prefix_ids holds an id outside the vocabulary of {pair.vocabulary_size} tokens.")
    limit = min(positions_of(pair.teacher), positions_of(pair.student))

    with torch.inference_mode(), _stop_between_layers(pair, stopping):
        if source == "given":
            assert response is not None
            prompt_ids, response_ids = encode_turn(
                pair.tokenizer, messages, response, chat_template_kwargs, finished=False
            )
            if not response_ids:
                raise ValueError("The given response holds no tokens. Write at least one word.")
            _check_context(len(prompt_ids), len(response_ids), limit)
        else:
            _check_context(len(prompt_ids), len(forced) + 1, limit)
            room = min(max_new_tokens, limit - len(prompt_ids)) - len(forced)
            response_ids = forced
            if room > 0:
                sampling = Sampling(do_sample, room, temperature, seed=seed)
                response_ids = forced + _write_response(
                    pair, source, prompt_ids + forced, sampling, report, stopping, forced
                )
        check_ids(pair, prompt_ids + response_ids, "the text")
        input_ids = torch.tensor([prompt_ids + response_ids], device=pair.device)
        n_prompt, n_tokens = len(prompt_ids), len(response_ids)

        teacher_hidden = response_hidden(pair.teacher, input_ids, n_prompt, "teacher", report)  # (N, H_t)
        student_hidden = response_hidden(pair.student, input_ids, n_prompt, "student", report)  # (N, H_s)
        heads = Head.of(pair.teacher), Head.of(pair.student)
        positions = torch.arange(n_tokens)
        uniforms = row_uniforms(seed, torch.zeros_like(positions), positions, K_MAX)
        targets = torch.tensor(response_ids, device=pair.device)

        measured: dict[str, Tensor] = {}
        for start in range(0, n_tokens, CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            teacher_logits = heads[0].logits(teacher_hidden[rows], pair.vocabulary_size).div_(temperature)  # (n, V)
            student_logits = heads[1].logits(student_hidden[rows], pair.vocabulary_size).div_(temperature)  # (n, V)
            for first in range(0, len(teacher_logits), BLOCK_ROWS):
                if stopping():
                    raise Stopped
                block = slice(first, first + BLOCK_ROWS)
                place = slice(start + first, start + first + len(teacher_logits[block]))
                facts = measure_rows(teacher_logits[block], student_logits[block], targets[place], uniforms[place])
                for name, values in facts.items():
                    # Written into place at once: small results kept between large buffers would tear up the heap.
                    if name not in measured:
                        measured[name] = torch.empty((n_tokens, *values.shape[1:]), dtype=values.dtype)
                    measured[name][place] = values
            report(Progress("measure", min(start + CHUNK_ROWS, n_tokens), n_tokens))
    if measured["forward_kl"].isnan().any():
        row = int(measured["forward_kl"].isnan().nonzero()[0])
        raise ValueError(
            f"At response token {row + 1} a model's logits are not finite. Load the pair with dtype='float32', "
            "or check its weights."
        )
    config = _config(pair, prompt, source, do_sample, max_new_tokens, temperature, seed)
    if forced and response is None:
        config["prefix_ids"] = forced  # so that whatever is made of it can say that the text was steered
    if chat_template_kwargs:
        config["chat_template_kwargs"] = dict(chat_template_kwargs)
    return _assemble(pair, config, prompt_ids, response_ids, measured, seed)


def measure_rows(
    teacher_logits: Tensor, student_logits: Tensor, targets: Tensor, uniforms: Tensor
) -> dict[str, Tensor]:
    """Everything a trace holds of a few rows, on the CPU.

    Each divergence is the one of ``speckd.divergences`` in a form that shares exponentials and logarithms between
    them; a row where that form is not finite (p or q exactly 0) is computed by the definition.

    Args:
        teacher_logits, student_logits: (N, V) float32, already divided by the temperature.
        targets: (N,) int64, the response's own tokens.
        uniforms: (N, K, 2) from ``row_uniforms``.
    Returns:
        name -> (N,) or (N, M) or (N, K) tensors.
    """
    lp, lq = teacher_logits.log_softmax(-1), student_logits.log_softmax(-1)  # (N, V)
    teacher_top, student_top = top_tokens(lp, N_TOP), top_tokens(lq, N_TOP)  # (N, 10)
    proposals = student_top[:, :1]  # (N, 1), the argmax
    asked_of_teacher = torch.cat([targets[:, None], proposals, student_top], -1)  # (N, 12)
    asked_of_student = torch.cat([targets[:, None], teacher_top], -1)  # (N, 11)
    teacher_ranks, student_ranks = rank_of(lp, asked_of_teacher), rank_of(lq, asked_of_student)
    teacher_values, student_values = lp.gather(-1, asked_of_teacher), lq.gather(-1, asked_of_student)
    proposal_student = lq.gather(-1, proposals)
    draws = draw_and_verify(lp, lq, uniforms)
    measured = _shared_divergences(lp, lq)
    measured |= {
        "proposal_ids": proposals[:, 0],
        "topk_threshold": teacher_ranks[:, 1],
        "speck_threshold": draws.threshold(),
        "proposal_teacher_prob": teacher_values[:, 1].exp(),
        "proposal_student_prob": proposal_student[:, 0].exp(),
        "proposal_acceptance": (teacher_values[:, 1] - proposal_student[:, 0]).clamp(max=0).exp(),
        "token_teacher_prob": teacher_values[:, 0].exp(),
        "token_student_prob": student_values[:, 0].exp(),
        "token_teacher_rank": teacher_ranks[:, 0],
        "token_student_rank": student_ranks[:, 0],
        "teacher_top.ids": teacher_top,
        "teacher_top.prob": lp.gather(-1, teacher_top).exp(),
        "teacher_top.other_prob": student_values[:, 1:].exp(),
        "teacher_top.other_rank": student_ranks[:, 1:],
        "student_top.ids": student_top,
        "student_top.prob": lq.gather(-1, student_top).exp(),
        "student_top.other_prob": teacher_values[:, 2:].exp(),
        "student_top.other_rank": teacher_ranks[:, 2:],
        "draws.ids": draws.token_ids,
        "draws.acceptance": draws.acceptance,
        "draws.coins": draws.coins,
    }
    return {name: values.cpu() for name, values in measured.items()}


def _shared_divergences(lp: Tensor, lq: Tensor) -> dict[str, Tensor]:
    """All divergences, both entropies and the Hellinger distance of (N, V) log-probabilities."""
    # Where both are 0 a mixture's logarithm must stay finite; 1e-38 of probability is nothing in float32.
    tiny = torch.finfo(lp.dtype).tiny
    p, q = lp.exp().clamp_(min=tiny), lq.exp().clamp_(min=tiny)
    work = lp - lq  # one (N, V) buffer, used again and again
    results = {"forward_kl": _dot(p, work), "reverse_kl": -_dot(q, work)}
    results["teacher_entropy"], results["student_entropy"] = -_dot(p, lp), -_dot(q, lq)
    torch.sub(p, q, out=work)
    results["tvd"] = 0.5 * work.abs_().sum(-1)

    def log_mixture(weight_of_teacher: float) -> Tensor:
        return torch.lerp(q, p, weight_of_teacher, out=work).log_()

    mixture, b = log_mixture(div.JSD_TEACHER_WEIGHT), div.JSD_TEACHER_WEIGHT
    teacher_part = -results["teacher_entropy"] - _dot(p, mixture)
    student_part = -results["student_entropy"] - _dot(q, mixture)
    results["jsd"] = b * teacher_part + (1 - b) * student_part
    results["skew_kl"] = -results["teacher_entropy"] - _dot(p, log_mixture(div.SKEW))
    results["skew_reverse_kl"] = -results["student_entropy"] - _dot(q, log_mixture(1 - div.SKEW))
    roots = torch.sub(p.sqrt_(), q.sqrt_(), out=work)
    results["hellinger"] = (_dot(roots, roots) / 2).sqrt()

    broken = ~torch.stack(list(results.values())).isfinite().all(0)  # (N,)
    if broken.any():
        exact = {**div.DIVERGENCES, "hellinger": div.hellinger}
        for name, function in exact.items():
            results[name][broken] = function(lp[broken], lq[broken])
        results["teacher_entropy"][broken] = div.entropy(lp[broken])
        results["student_entropy"][broken] = div.entropy(lq[broken])
    return {name: values.clamp(min=0.0) for name, values in results.items()}


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """sum_v first * second of each row; on a CPU row by row through BLAS, which needs no product in memory."""
    if first.device.type == "cpu":
        return torch.stack([torch.dot(a, b) for a, b in zip(first, second, strict=True)])
    return (first * second).sum(-1)


# --- the text -----------------------------------------------------------------------------------------------------


def check_request(
    prompt: str, response: str | None, source: str | None, max_new_tokens: int, temperature: float, seed: int
) -> str:
    """Check what ``inspect`` is asked for before any model is run; the source, with its default filled in.

    Raises:
        ValueError: an argument makes no sense; the message is one sentence that says what to do.
    """
    source = source or ("given" if response is not None else "teacher")
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}: choose 'teacher', 'student' or 'given'.")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("The prompt is empty. Write a question or an instruction.")
    if source == "given" and not (isinstance(response, str) and response.strip()):
        raise ValueError("The given response is empty. Write at least one word.")
    if source != "given" and response is not None:
        raise ValueError(f"A response is given, but source is {source!r}. Leave one of the two out.")
    for name, text in (("prompt", prompt), ("given response", response or "")):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"The {name} holds half a character (a lone surrogate). Remove it.") from None
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens!r}: choose a whole number, 1 or more.")
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise ValueError(
            f"temperature is {temperature!r}: choose a number above 0. For greedy text use do_sample=False."
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed!r}: choose a whole number from 0 to 2**63 - 1.")
    return source


def _check_context(n_prompt: int, n_response: int, limit: int) -> None:
    if n_prompt + n_response > limit:
        raise ValueError(
            f"The text is {n_prompt + n_response} tokens long ({n_prompt} of them the prompt); "
            f"these models read at most {limit}. Shorten it."
        )


def _write_response(
    pair: Pair,
    source: str,
    context_ids: list[int],
    sampling: Sampling,
    report: OnProgress,
    stopping: ShouldStop,
    forced: list[int],
) -> list[int]:
    """The tokens that the model adds to the context, its end-of-turn token included where it comes."""
    longest = len(forced) + sampling.max_new_tokens

    def follow(written: list[list[int]]) -> None:
        if stopping():
            raise Stopped
        text = forced + written[0]
        report(Progress("generate", len(text), longest, pair.tokenizer.decode(text)))

    answer = generate_batch(
        pair.teacher if source == "teacher" else pair.student,
        pair.tokenizer,
        [context_ids],
        sampling,
        # A token's uniform is that of its place in the response, whether the tokens before it were forced or not.
        uniforms=[answer_uniforms(sampling.seed, 0, longest)[len(forced) :]],
        vocabulary_size=pair.vocabulary_size,
        lean=True,
        draft=draft_for(pair) if source == "teacher" else None,
        should_stop=stopping,
        on_step=follow,
    )[0]
    if stopping():
        raise Stopped
    return answer.response_ids


# --- the models ---------------------------------------------------------------------------------------------------


def response_hidden(
    model: Model, input_ids: Tensor, n_prompt: int, stage: str = "", report: OnProgress = lambda _: None
) -> Tensor:
    """The hidden states that predict the response tokens, one position earlier: (1, T) ids to (N, H)."""
    before_last = input_ids[:, :-1]
    rows = torch.arange(before_last.shape[1], device=input_ids.device)[None] >= n_prompt - 1  # (1, T - 1)
    return hidden_rows(
        model, before_last, rows, on_layer=lambda done, n_layers: report(Progress(stage, done, n_layers))
    )


@contextlib.contextmanager
def _stop_between_layers(pair: Pair, stopping: ShouldStop) -> Iterator[None]:
    """Ask whether to stop before each layer of both models, so that a long pass can be stopped within it."""

    def ask(*_: Any) -> None:
        if stopping():
            raise Stopped

    hooks = [
        layer.register_forward_pre_hook(ask)
        for model in (pair.teacher, pair.student)
        for layer in getattr(trunk_of(model), "layers", [])
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# --- the trace ----------------------------------------------------------------------------------------------------


def _config(
    pair: Pair, prompt: str, source: str, do_sample: bool, max_new_tokens: int, temperature: float, seed: int
) -> dict[str, Any]:
    import transformers

    from speckd._version import __version__

    return {
        "prompt": prompt,
        "source": source,
        "do_sample": bool(do_sample),
        "max_new_tokens": max_new_tokens,
        "temperature": float(temperature),
        "seed": seed,
        "k_max": K_MAX,
        "n_top": N_TOP,
        "teacher": pair.teacher_id,
        "student": pair.student_id,
        "teacher_sha256": pair.teacher_sha256,
        "student_sha256": pair.student_sha256,
        "dtype": str(pair.dtype).removeprefix("torch."),
        "device": pair.device.type,
        "vocabulary_size": pair.vocabulary_size,
        "speckd": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _assemble(
    pair: Pair,
    config: dict[str, Any],
    prompt_ids: list[int],
    response_ids: list[int],
    measured: dict[str, Tensor],
    seed: int,
) -> Trace:
    named_ids = {"proposal_ids", "teacher_top.ids", "student_top.ids", "draws.ids"}
    ids = sorted(set(torch.cat([measured[name].flatten() for name in sorted(named_ids)]).tolist()))

    def top(name: str) -> TopTokens:
        return TopTokens(**{key: measured[f"{name}.{key}"] for key in ("ids", "prob", "other_prob", "other_rank")})

    single = {name: values for name, values in measured.items() if "." not in name and name not in div.DIVERGENCES}
    return Trace(
        config=config,
        response=pair.tokenizer.decode(response_ids),
        input_ids=torch.tensor(prompt_ids + response_ids),
        n_prompt=len(prompt_ids),
        tokens=[token_text(pair.tokenizer, token_id) for token_id in response_ids],
        strings={token_id: token_text(pair.tokenizer, token_id) for token_id in ids},
        **single,
        divergences={name: measured[name] for name in div.DIVERGENCES},
        teacher_top=top("teacher_top"),
        student_top=top("student_top"),
        draws=Draws(measured["draws.ids"], measured["draws.acceptance"], measured["draws.coins"]),
        ranks=selector_ranks(measured, seed),
    )
