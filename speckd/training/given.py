"""What a trainer is given: a pair, or models by name or in memory as TRL's trainers take them; and its data."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from speckd.data import Example, Examples, ResponseDataset, read_examples
from speckd.evaluation import check_lengths
from speckd.gates import Gate
from speckd.pairs import Pair, is_elsewhere, load_model, load_pair
from speckd.top_tokens import check_gate
from speckd.training.teacher_file import TeacherFile, check_temperature


def pair_of(model: Any, teacher_model: Any, processing_class: Any, peft_config: Any, args: Any) -> Pair:
    """The pair of a student and a teacher.

    Args:
        model, teacher_model: a model each, or its name; the teacher may be elsewhere.
        processing_class: their tokenizer; where None, the one of a model that is given by name.
        peft_config: puts a fresh adapter on the student; without one, a student given by name trains in full.
        args: a SpecKDConfig, for the device.
    Raises:
        ValueError: one of the two is missing, or no tokenizer is.
    """
    if model is None or teacher_model is None:
        raise ValueError("a student and a teacher are needed: give model= and teacher_model=, or a Pair.")
    if isinstance(model, str) and (isinstance(teacher_model, str) or is_elsewhere(teacher_model)):
        pair = load_pair(teacher_model, model, device=args.device)
        pair = replace(pair, tokenizer=processing_class or pair.tokenizer)
        student = pair.student if peft_config is not None else pair.student.float().requires_grad_(True)
        return replace(pair, student=_adapted(student, peft_config))
    if isinstance(model, str):
        model, tokenizer = load_model(model, device=args.device)
        model.float().requires_grad_(True)
        processing_class = processing_class or tokenizer
    if isinstance(teacher_model, str):
        teacher_model, tokenizer = load_model(teacher_model, device=args.device)
        processing_class = processing_class or tokenizer
    if processing_class is None:
        raise ValueError("models in memory do not say which tokenizer is theirs: give processing_class=.")
    return Pair.of(teacher_model, _adapted(model, peft_config), processing_class)


def _adapted(student: Any, peft_config: Any) -> Any:
    if peft_config is None:
        return student
    from peft import get_peft_model

    return get_peft_model(student, peft_config)


def check_elsewhere(pair: Pair, args: Any, gate: Gate) -> None:
    """Refuse what a teacher cannot do that is known by its K likeliest tokens.

    Raises:
        ValueError: a gate, a figure, a temperature or a use that needs the teacher itself; the message names it.
    """
    teacher = pair.teacher
    check_gate(gate, teacher.n_kept)
    check_temperature(teacher, args.temperature)
    if args.eval_k > teacher.n_kept:
        raise ValueError(
            f"eval_k is {args.eval_k}, and only the teacher's {teacher.n_kept} likeliest tokens are known."
        )
    if args.eval_rouge:
        raise ValueError("ROUGE-L needs the teacher's own answers, and the teacher is elsewhere: leave eval_rouge out.")
    if args.teacher_cache is not None:
        raise ValueError("a teacher that is elsewhere has no hidden states here: leave teacher_cache out.")
    if args.keep_best in ("acceptance", "rouge_l"):
        raise ValueError(
            f"{args.keep_best} needs the teacher itself, and it is elsewhere: keep the best by divergence."
        )
    if args.student_share > 0 and isinstance(teacher, TeacherFile):
        raise ValueError(
            f"{teacher.path} holds given texts, and the student would write others: leave student_share out, or ask a "
            "server."
        )


def examples_of(source: Any, pair: Pair, args: Any, needs_response: bool) -> Examples:
    """The examples of what a trainer is given as data: read already, a list of them, or a source in any form.

    Raises:
        ValueError: it cannot be read, is longer than a model reads, or holds no response token where one is needed.
    """
    if isinstance(source, Examples):
        found = source
    elif isinstance(source, Sequence) and source and isinstance(source[0], Example):
        found = Examples(list(source), [], 0, 0, args.max_length)
    else:
        found = read_examples(
            source,
            pair.tokenizer,
            max_length=args.max_length,
            on_bad=args.on_bad,
            needs_response=needs_response,
            chat_template_kwargs=args.chat_template_kwargs,
            turns=args.turns,
        )
    check_lengths(pair, found.examples)
    if needs_response and not found.n_response_tokens:
        raise ValueError(
            "the data holds no response token: give responses, or let the teacher or the student write them."
        )
    return found


def eval_dataset_of(examples: Examples | None, cache: Any | None) -> ResponseDataset | None:
    """Held-out examples as the Trainer takes them, with the teacher's cache where it holds all of them."""
    if examples is None:
        return None
    held = cache is not None and all(example in cache for example in examples.examples)
    return ResponseDataset(examples.examples, cache if held else None)
