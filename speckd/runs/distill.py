"""One call from settings to a trained student with its report: what ``python -m speckd distill`` runs.

A run's folder:

    settings.json       what was asked for; a resumed run must ask for the same
    responses.jsonl     where the teacher wrote the responses
    teacher-cache/      the teacher's hidden states, where they are kept
    checkpoints/        complete ones carry complete.json; removed when the student is finished, unless kept
    log.jsonl           every row of the log, as it comes; log.csv at the end
    recording.json      the run as events, for pictures that play it (see ``recording.py``)
    report.md, .html    the report
    student/            the trained student with its model card; appears whole, at the very end

With several gates each racer has a folder of its own with these files, and the joint report lies above them. All racers
start from the same student and see the same batches; they run one after the other, or a step in turn (``turns.py``).
"""

import functools
import gc
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from speckd.data import Examples
from speckd.files import write_whole
from speckd.gates import gate_from_text
from speckd.jobs import OnProgress
from speckd.pairs import Pair, load_pair
from speckd.runs.material import data_of, fill_teacher_cache, has_stopped, is_main_process, wait_for_main_process
from speckd.runs.publishing import check_hub, push
from speckd.runs.recording import OnEvent, Recorder
from speckd.runs.report import RunRecord, Runs, held_out_table
from speckd.runs.settings import DistillSettings, options_of
from speckd.runs.telling import seed_spread, verdict
from speckd.runs.turns import TurnCallback, Turns
from speckd.runs.writing import drop_checkpoints, open_folder, read_record, write_record, write_report, write_student
from speckd.training import sharded
from speckd.training.callbacks import RowCallback
from speckd.training.config import SpecKDConfig, config_facts
from speckd.training.prepare import prepare_student
from speckd.training.probe import Probe, ProbeCallback, choose_probe
from speckd.training.teacher_file import TeacherFile
from speckd.training.teacher_server import TeacherServer
from speckd.training.trainer import SpecKDTrainer

__all__ = ["DistillSettings", "distill", "fill_teacher_cache", "is_main_process", "read_record"]

OnRow = Callable[[str, dict[str, Any]], None]
Watch = Callable[[Pair, Examples], Sequence[Any]]  # callbacks of transformers' Trainer for one racer
OnTrained = Callable[[Pair, RunRecord], None]


def distill(
    settings: DistillSettings,
    *,
    resume: bool = False,
    stop_file: str | None = None,
    on_progress: OnProgress | None = None,
    on_row: OnRow | None = None,
    on_event: OnEvent | None = None,
    progress_bar: bool = False,
    load: Callable[..., Pair] = load_pair,
    watch: Watch | None = None,
    on_trained: OnTrained | None = None,
    keep_student: bool = True,
) -> Runs:
    """Train one student a gate, and write everything a person may want to keep.

    Args:
        settings: what to do.
        resume: go on with an interrupted run of the same settings; finished parts are not done again.
        stop_file: when this file appears the training at hand ends after its step, and what was reached is kept.
        on_progress: stages "load", "generate", "teacher".
        on_row: called with (gate, row) for each row of the log.
        on_event: called with each event of the run, as ``recording.py`` describes them. What it raises ends the run.
        progress_bar: a bar with the loss and TAR on standard error, on a terminal.
        load: stands in for ``load_pair``, with its arguments, where a fresh pair lies ready.
        watch: makes callbacks that look on while a racer trains, from its pair and examples.
        on_trained: called with each racer's pair, its student trained, and its record, before the next one starts.
        keep_student: write the trained students; without them an interrupted race begins anew.
    Returns:
        A RunRecord a gate, in order; fewer where the stop file ended the race.
    Raises:
        ValueError, OSError: one sentence that says what to do.
        Stopped: the stop file appeared while the teacher wrote responses; the run can be resumed.
    """
    _check_sharded(settings)
    if is_main_process():
        check_hub(settings)
    output = Path(settings.output).expanduser()
    main = is_main_process()
    if main:
        open_folder(output, settings, resume)
    wait_for_main_process()
    told = Recorder(settings, on_event)
    race = _Race(
        settings,
        on_progress or (lambda _: None),
        on_row,
        told,
        stop_file,
        progress_bar,
        resume,
        load,
        watch,
        on_trained,
        keep_student,
    )
    records = _in_turn(race) if settings.in_turn and len(settings.gates) > 1 and _is_alone() else _in_order(race)
    told.answers()
    told.verdict(verdict(records, seed_spread(settings)), held_out_table(records) if records[0].after else [])
    if main:
        if len(settings.gates) > 1:
            write_report(output, records, settings)
        told.write(output / "recording.json")
    return records


def _in_order(race: "_Race") -> Runs:
    """One racer's whole run after the other's."""
    records = Runs()
    for number in range(len(race.settings.gates)):
        records.append(_racer_of(race, number))
        if has_stopped(race.stop_file):
            break
    return records


def _in_turn(race: "_Race") -> Runs:
    """All racers at once, a step of each in turn."""
    n = len(race.settings.gates)
    race.turns = Turns(n)
    found: list[RunRecord | None] = [None] * n

    def racer(number: int) -> Callable[[], None]:
        def run() -> None:
            found[number] = _racer_of(race, number)

        return run

    race.turns.run([racer(number) for number in range(n)])
    return Runs(record for record in found if record is not None)


def _racer_of(race: "_Race", number: int) -> RunRecord:
    """A racer's record: read where it is finished, else made."""
    racer = race.settings.racer(race.settings.gates[number])
    if is_main_process() and len(race.settings.gates) > 1:
        open_folder(Path(racer.output), racer, race.resume)
    wait_for_main_process()
    done = read_record(Path(racer.output)) if race.resume else None
    if done is None:
        done = _train_one(race, racer, number)
        gc.collect()
    if is_main_process() and race.keep_student and racer.push_to_hub is not None:
        push(Path(racer.output).expanduser() / "student", racer.push_to_hub, racer.hub_private)
    return done


def _check_sharded(settings: DistillSettings) -> None:
    """Refuse, before anything is loaded, what a student that FSDP shards cannot do."""
    needs_whole = {name: getattr(settings, name) for name in ("probe_every", "answers", "rouge", "keep_best")}
    sharded.check({f"responses={settings.responses!r}": settings.responses in ("student", "mixed")} | needs_whole)


@dataclass
class _Race:
    """What all racers of one call share."""

    settings: DistillSettings
    report: OnProgress
    on_row: OnRow | None
    told: Recorder
    stop_file: str | None
    progress_bar: bool
    resume: bool
    load: Callable[..., Pair]
    watch: Watch | None
    on_trained: OnTrained | None
    keep_student: bool
    before: dict[str, Any] = field(default_factory=dict)  # held-out figures of the one start
    turns: Turns | None = None  # where racers take a step in turn
    teacher: Any = None  # the one that racers in turn share


def _is_alone() -> bool:
    """Whether this is the only process of the run."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def _train_one(race: _Race, settings: DistillSettings, number: int) -> RunRecord:
    # Long: one racer from start to student, told in the order in which it happens.
    output, gate, told = Path(settings.output).expanduser(), settings.gates[0], race.told
    main = is_main_process()
    pair = _load(race, settings)
    if race.turns is not None:  # one teacher for all of them: it is only read
        race.teacher = race.teacher or pair.teacher
        pair = replace(pair, teacher=race.teacher)
    pair = prepare_student(
        pair, lora_rank=settings.lora_rank, lora_alpha=settings.lora_alpha, full=settings.full, seed=settings.seed
    )
    shared = Path(race.settings.output).expanduser()
    train, held_out, cache = data_of(pair, settings, shared, race.report, race.stop_file)
    probe = _probe(pair, held_out, settings) if main else None
    if number == 0 or not told.started:
        told.start(pair, probe)
    if probe is not None and settings.probe_every:
        told.probe(number, 0, probe.measure())
    if probe is not None and settings.answers and number == 0:
        for sampled in (False, True):
            told.answer(pair, "before", None, probe.prompt, settings.answers, sampled=sampled)
    turn = TurnCallback(race.turns, number, race.stop_file) if race.turns is not None else None
    hears = race.stop_file if turn is None or number == 0 else None  # of racers in turn the others follow the first
    args = SpecKDConfig(**_arguments(settings, output, hears, race.progress_bar, cache))
    live = output / "log.jsonl"
    written = 0

    def keep(row: dict[str, Any]) -> None:
        nonlocal written
        # The first row of a resumed run comes with those before its checkpoint, which replace what was there.
        rows = [row] if written else trainer.state.log_history
        with live.open("a" if written else "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        written += len(rows)
        if race.on_row is not None:
            race.on_row(gate, row)
        for one in rows:
            told.row(number, one)

    callbacks: list[Any] = [RowCallback(keep)]
    looks: list[tuple[int, Callable[[int], None]]] = []
    if probe is not None and settings.probe_every:
        looks.append((settings.probe_every, functools.partial(_measure, told, probe, number)))
    if probe is not None and settings.answer_every:
        told.saying(number, 0, probe.answer(settings.answers))
        looks.append((settings.answer_every, functools.partial(_say, told, probe, number, settings.answers)))
    if looks:
        callbacks.append(ProbeCallback(looks))
    if race.watch is not None:
        callbacks.extend(race.watch(pair, train))
    if turn is not None:
        callbacks.append(turn)
    reference = _reference(race, settings)
    trainer = SpecKDTrainer(pair, args, train, held_out, callbacks=callbacks, reference=reference)
    if turn is not None:
        turn.trainer = trainer
    if held_out is not None:
        _score_before(race, trainer, output / "before.json")
        told.held_out(number, 0, race.before)
    before = race.before
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=race.resume)
    seconds = time.monotonic() - started - (turn.waited if turn is not None else 0.0)
    history = [dict(row) for row in trainer.state.log_history if "train_runtime" not in row]
    after: dict[str, Any] = {}
    kept_step = trainer.best.get("step", trainer.state.global_step)
    if held_out is not None:
        after = _last_scores(history, kept_step) or _scores(trainer)
    if held_out is not None:
        told.held_out(number, kept_step, after)
    if probe is not None and settings.answers:
        for sampled in (False, True):
            told.answer(pair, "after", number, probe.prompt, settings.answers, sampled=sampled)
        if (number + 1 == len(race.settings.gates) or has_stopped(race.stop_file)) and not told.has_answer("teacher"):
            told.answer(pair, "teacher", None, probe.prompt, settings.answers)
    facts = _facts(trainer, settings, train, kept_step)
    record = RunRecord(trainer.gate.title(), facts, history, before, after, seconds)
    weights = trainer.student_weights() if race.keep_student else None  # of every process, where it is sharded
    if main:
        write_record(output, record)
        write_report(output, [record], settings)
        if race.keep_student:
            write_student(output, pair, record, settings, weights)
        if not settings.keep_checkpoints:
            drop_checkpoints(output / "checkpoints")
    if race.on_trained is not None:
        race.on_trained(pair, record)
    wait_for_main_process()
    return record


def _measure(told: Recorder, probe: Probe, racer: int, step: int) -> None:
    told.probe(racer, step, probe.measure())


def _say(told: Recorder, probe: Probe, racer: int, longest: int, step: int) -> None:
    told.saying(racer, step, probe.answer(longest))


def _load(race: _Race, settings: DistillSettings) -> Pair:
    """A fresh pair; of a teacher that is elsewhere, what is known of it."""
    teacher: Any = settings.teacher
    if settings.teacher_file is not None:
        teacher = TeacherFile(settings.teacher_file)
    elif settings.teacher_server is not None:
        teacher = TeacherServer(settings.teacher_server, settings.teacher_model, n_kept=settings.teacher_kept)
    more = {name: options_of(getattr(settings, name)) for name in ("teacher_options", "student_options")}
    pair = race.load(
        teacher,
        settings.student,
        device=settings.device,
        dtype=settings.dtype,
        revision=settings.revision,
        student_revision=settings.student_revision,
        on_progress=race.report,
        **{name: options for name, options in more.items() if options},
    )
    if isinstance(teacher, TeacherServer):
        teacher.know(pair.tokenizer)
    return pair


def _score_before(race: _Race, trainer: SpecKDTrainer, file: Path) -> None:
    """Held-out figures of the start: from the file of an interrupted run, else of the race so far, else measured."""
    if file.exists():
        race.before = json.loads(file.read_text(encoding="utf-8"))
    elif not race.before:
        race.before = _scores(trainer)
    if is_main_process():
        write_whole(file, json.dumps(race.before) + "\n")


def _facts(trainer: SpecKDTrainer, settings: DistillSettings, train: Examples, kept_step: int) -> dict[str, Any]:
    """What a report says of a run beside its figures."""
    pair = trainer.pair
    return config_facts(trainer.args, trainer.gate) | {
        "teacher": pair.teacher_id,
        "teacher_sha256": pair.teacher_sha256[:12],
        "start": pair.student_id,
        "steps": trainer.state.global_step,
        **({"kept": f"step {kept_step}, best by {settings.keep_best}"} if trainer.best else {}),
        **({"products": "bfloat16"} if trainer.products_are_fast else {}),
        "responses": settings.responses,
        "training examples": len(train),
        "response tokens": train.n_response_tokens,
        "data": train.summary(),
    }


def _reference(race: _Race, settings: DistillSettings) -> Any | None:
    """The reference model where the gate compares with one."""
    if not gate_from_text(settings.gates[0]).needs_reference:
        return None
    named = settings.reference
    return race.load(settings.teacher, named, device=settings.device, dtype=settings.dtype, merge=True).student


def _probe(pair: Pair, held_out: Examples | None, settings: DistillSettings) -> Probe | None:
    example = choose_probe(held_out.examples) if held_out is not None else None
    if example is None or not (settings.probe_every or settings.answers):
        return None
    return Probe(pair, example, divergence=settings.divergence, temperature=settings.temperature, seed=settings.seed)


def _scores(trainer: SpecKDTrainer) -> dict[str, Any]:
    """Held-out figures without a row in the log."""
    logged = trainer.log
    trainer.log = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        found = trainer.evaluate()
    finally:
        trainer.log = logged  # type: ignore[method-assign]
    return {name.removeprefix("eval_"): value for name, value in found.items() if name != "eval_runtime"}


def _last_scores(history: Sequence[dict[str, Any]], step: int) -> dict[str, Any]:
    """The held-out figures of the log's last evaluation, if it was of this step."""
    rows = [row for row in history if row.get("step") == step and "eval_divergence" in row]
    found = rows[-1] if rows else {}
    return {
        name.removeprefix("eval_"): value
        for name, value in found.items()
        if name.startswith("eval_") and name != "eval_runtime"
    }


# transformers renamed it within version 5; both names mean the same.
_CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if name in SpecKDConfig.__dataclass_fields__
)


def _arguments(
    settings: DistillSettings, output: Path, stop_file: str | None, progress_bar: bool, cache: Path | None
) -> dict[str, Any]:
    share = {"student": 1.0, "mixed": settings.student_share}.get(settings.responses, 0.0)
    evaluates = settings.eval_every > 0 and settings.eval_data is not None
    return {
        "output_dir": str(output / "checkpoints"),
        "gate": settings.gates[0],
        "divergence": settings.divergence,
        "temperature": settings.temperature,
        "mixture": settings.mixture,
        "jsd_beta": settings.jsd_beta,
        "rejected": settings.rejected,
        "ce_share": settings.ce_share,
        "router_loss": settings.router_loss,
        "packing": settings.packing,
        "products": settings.products,
        "keep_best": settings.keep_best,
        "patience": settings.patience,
        "student_share": share,
        "max_new_tokens": settings.max_new_tokens,
        "max_length": settings.max_length,
        "on_bad": settings.on_bad,
        "chat_template_kwargs": settings.chat_template_kwargs,
        "turns": settings.turns,
        "teacher_cache": str(cache) if cache is not None else None,
        "stop_file": stop_file,
        "eval_rouge": settings.rouge,
        "max_steps": settings.steps or -1,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulate,
        "learning_rate": settings.learning_rate,
        "warmup_steps": settings.warmup,
        "lr_scheduler_type": settings.schedule,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.clip,
        _CHECKPOINTING: settings.activation_checkpointing,
        "bf16": settings.precision == "bf16",
        "fp16": settings.precision == "fp16",
        "use_cpu": settings.device == "cpu" or not torch.cuda.is_available(),
        "seed": settings.seed,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": settings.eval_every or None,
        "save_strategy": "steps" if settings.save_every else "no",
        "save_steps": settings.save_every or 500,
        "save_total_limit": None if settings.keep_checkpoints else 2,
        "report_to": list(settings.report_to),
        "disable_tqdm": not progress_bar,
    }
