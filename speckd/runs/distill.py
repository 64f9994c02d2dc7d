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
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from speckd.conversations import template_switches
from speckd.data import Examples, read_examples
from speckd.evaluation import check_lengths
from speckd.files import write_whole
from speckd.gates import gate_from_text
from speckd.jobs import OnProgress, Progress, Stopped
from speckd.pairs import Pair, load_pair
from speckd.rollouts import Sampling, is_complete, write_rollouts
from speckd.runs.recording import OnEvent, Recorder
from speckd.runs.report import RunRecord, Runs, held_out_table, to_csv, to_html, to_markdown
from speckd.runs.settings import DistillSettings, command_of, options_of
from speckd.runs.telling import model_card, seed_spread, verdict
from speckd.runs.turns import TurnCallback, Turns
from speckd.training.callbacks import RowCallback
from speckd.training.config import SpecKDConfig, config_facts
from speckd.training.prepare import prepare_student, save_student
from speckd.training.probe import Probe, ProbeCallback, choose_probe
from speckd.training.teacher_cache import CacheWriter, example_key, fill_cache, tokenizer_sha256
from speckd.training.teacher_file import TeacherFile
from speckd.training.teacher_server import TeacherServer
from speckd.training.trainer import SpecKDTrainer

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
        on_row: told (gate, row) for each row of the log.
        on_event: told each event of the run, as ``recording.py`` describes them. What it raises ends the run.
        progress_bar: a bar with the loss and TAR on standard error, on a terminal.
        load: stands in for ``load_pair``, with its arguments, where a fresh pair lies ready.
        watch: makes callbacks that look on while a racer trains, from its pair and examples.
        on_trained: told each racer's pair, its student trained, and its record, before the next one starts.
        keep_student: write the trained students; without them an interrupted race begins anew.
    Returns:
        A RunRecord a gate, in order; fewer where the stop file ended the race.
    Raises:
        ValueError, OSError: one sentence that says what to do.
        Stopped: the stop file appeared while the teacher wrote responses; the run can be resumed.
    """
    output = Path(settings.output).expanduser()
    main = is_main_process()
    if main:
        _open_folder(output, settings, resume)
    _wait_for_main_process()
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
            _write_report(output, records, settings)
        told.write(output / "recording.json")
    return records


def _in_order(race: "_Race") -> Runs:
    """One racer's whole run after the other's."""
    records = Runs()
    for number in range(len(race.settings.gates)):
        records.append(_racer_of(race, number))
        if _stopped(race.stop_file):
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
        _open_folder(Path(racer.output), racer, race.resume)
    _wait_for_main_process()
    done = read_record(Path(racer.output)) if race.resume else None
    if done is None:
        done = _train_one(race, racer, number)
        gc.collect()
    return done


def _stopped(stop_file: str | None) -> bool:
    return stop_file is not None and os.path.exists(stop_file)


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


def is_main_process() -> bool:
    """Whether this is the process that writes: the only one, or the first of several."""
    return int(os.environ.get("RANK", "0")) == 0


def _is_alone() -> bool:
    """Whether this is the only process of the run."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def _wait_for_main_process() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


def _open_folder(folder: Path, settings: DistillSettings, resume: bool) -> None:
    """Make the run's folder, or check that it holds this very run."""
    asked = json.loads(json.dumps(asdict(settings)))
    file = folder / "settings.json"
    try:
        if file.exists():
            if not resume:
                raise ValueError(f"{folder} holds a run already: resume it with --resume, or choose another folder.")
            kept = json.loads(file.read_text(encoding="utf-8"))
            free = {
                "output",
                "cache_folder",
                "device",
                "name",
                "report_to",
                "keep_checkpoints",
                "eval_every",
                "in_turn",
            }
            differing = sorted(
                name for name in asked if kept.get(name, asked[name]) != asked[name] and name not in free
            )
            if differing:
                raise ValueError(
                    f"{folder} holds a run with other settings ({', '.join(differing)}): repeat the first command with "
                    "--resume added, or choose another folder."
                )
        elif folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty, and no run of ours: choose another folder.")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(asked, indent=2) + "\n")
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error.strerror or error}): free some space or choose another folder."
        ) from error


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
    train, held_out, cache = _data(pair, settings, shared, race.report, race.stop_file)
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
        if (number + 1 == len(race.settings.gates) or _stopped(race.stop_file)) and not told.has_answer("teacher"):
            told.answer(pair, "teacher", None, probe.prompt, settings.answers)
    facts = _facts(trainer, settings, train, kept_step)
    record = RunRecord(trainer.gate.title(), facts, history, before, after, seconds)
    if main:
        _write_record(output, record)
        _write_report(output, [record], settings)
        if race.keep_student:
            _write_student(output, pair, record, settings)
        if not settings.keep_checkpoints:
            _drop_checkpoints(output / "checkpoints")
    if race.on_trained is not None:
        race.on_trained(pair, record)
    _wait_for_main_process()
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


def _drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints, and nothing else: loggers such as TensorBoard keep their events beside them."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


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
        "packing": settings.packing,
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


# --- data ---------------------------------------------------------------------------------------------------------


def _data(
    pair: Pair, settings: DistillSettings, shared: Path, report: OnProgress, stop_file: str | None = None
) -> tuple[Examples, Examples | None, Path | None]:
    """Training examples, held-out examples, and the folder of the teacher cache."""
    reading: dict[str, Any] = {
        "max_length": settings.max_length,
        "on_bad": settings.on_bad,
        "chat_template_kwargs": template_switches(settings.chat_template_kwargs),
        "turns": settings.turns,
    }
    limit = settings.limit
    folder = Path(settings.cache_folder) if settings.cache_folder else shared / "teacher-cache"
    caching = settings.teacher_cache and settings.responses != "student" and not settings.elsewhere
    if settings.responses == "teacher":
        prompts = read_examples(settings.data, pair.tokenizer, needs_response=False, limit=limit, **reading)
        train = _teacher_writes(pair, settings, prompts, shared, folder if caching else None, report, stop_file)
    else:
        needs = settings.responses != "student"  # of a mix, the file has the other share
        train = read_examples(settings.data, pair.tokenizer, needs_response=needs, limit=limit, **reading)
    held_out = None
    if settings.eval_data is not None:
        held_out = read_examples(settings.eval_data, pair.tokenizer, limit=settings.eval_limit, **reading)
    check_lengths(pair, [*train.examples, *(held_out.examples if held_out is not None else [])])
    if not caching:
        return train, held_out, None
    if is_main_process():
        _fill(pair, folder, train, held_out, settings, report)
    _wait_for_main_process()
    return train, held_out, folder


def _fill(
    pair: Pair, folder: Path, train: Examples, held_out: Examples | None, settings: DistillSettings, report: OnProgress
) -> None:
    fill_cache(
        folder,
        pair.teacher,
        pair.tokenizer,
        [*train.examples, *(held_out.examples if held_out is not None else [])],
        pair.teacher_sha256,
        batch_size=settings.batch_size,
        on_progress=lambda done, total: report(Progress("teacher", done, total, "teacher's hidden states")),
    )


def fill_teacher_cache(pair: Pair, settings: DistillSettings, on_progress: OnProgress | None = None) -> None:
    """Make the teacher cache that a run with these settings would make, ahead of it.

    Raises:
        ValueError, OSError: as ``distill``.
    """
    if settings.cache_folder and settings.responses == "file":
        _data(pair, settings, Path(settings.output), on_progress or (lambda _: None))


def _teacher_writes(
    pair: Pair,
    settings: DistillSettings,
    prompts: Examples,
    shared: Path,
    cache: Path | None,
    report: OnProgress,
    stop_file: str | None,
) -> Examples:
    """The teacher's answers to the prompts, made once; with a cache its hidden states are kept as they pass by."""
    file = shared / "responses.jsonl"
    sampling = Sampling(
        do_sample=not settings.greedy,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.response_temperature,
        top_p=settings.top_p,
        seed=settings.response_seed,
    )
    if is_main_process() and not is_complete(file):
        writer = None
        if cache is not None:
            writer = CacheWriter(cache, pair.teacher_sha256, tokenizer_sha256(pair.tokenizer))

        def keep(index: int, answer: Any) -> None:
            from dataclasses import replace

            example = replace(prompts.examples[index], response_ids=answer.response_ids)
            if writer is not None:
                writer.add(example_key(example), answer.hidden)

        write_rollouts(
            file,
            pair.teacher,
            pair.tokenizer,
            [example.messages for example in prompts.examples],
            [example.prompt_ids for example in prompts.examples],
            sampling,
            extras=[example.extras for example in prompts.examples],
            model_id=pair.teacher_id,
            model_sha256=pair.teacher_sha256,
            batch_size=4 * settings.batch_size,
            vocabulary_size=pair.vocabulary_size,
            on_answer=keep if writer is not None else None,
            on_progress=lambda done, total, _: report(Progress("generate", done, total, "teacher's answers")),
            should_stop=lambda: _stopped(stop_file),
        )
        if writer is not None:
            writer.flush()
        if not is_complete(file):
            raise Stopped("Stopped while the teacher wrote; its answers so far are kept.")
    _wait_for_main_process()
    switches = template_switches(settings.chat_template_kwargs)
    return read_examples(
        file, pair.tokenizer, max_length=settings.max_length, chat_template_kwargs=switches, turns="last"
    )


# --- what is written ----------------------------------------------------------------------------------------------


def _write_record(output: Path, record: RunRecord) -> None:
    write_whole(output / "run.json", json.dumps(asdict(record)) + "\n")


def read_record(output: Path) -> RunRecord | None:
    """The record of a finished run, or None."""
    if not (output / "run.json").exists() or not (output / "student").is_dir():
        return None
    return RunRecord(**json.loads((output / "run.json").read_text(encoding="utf-8")))


def _write_report(output: Path, records: Sequence[RunRecord], settings: DistillSettings) -> None:
    title = "SpecKD: " + (" against ".join(record.name for record in records))
    words, command = verdict(records, seed_spread(settings)), command_of(settings)
    write_whole(output / "log.csv", to_csv(records))
    write_whole(output / "report.md", to_markdown(records, title, words, command))
    write_whole(output / "report.html", to_html(records, title, words, command))


def _write_student(output: Path, pair: Pair, record: RunRecord, settings: DistillSettings) -> None:
    """The student under a temporary name, then renamed: whole or absent."""
    partial, target = output / ".student.partial", output / "student"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        save_student(pair.student, partial, pair.tokenizer, dtype=getattr(torch, settings.save_dtype))
        (partial / "README.md").write_text(model_card(pair, record, settings), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
    except OSError as error:
        raise OSError(
            f"{target} cannot be written ({error.strerror or error}): free some space, then run the same command with "
            "--resume."
        ) from error
