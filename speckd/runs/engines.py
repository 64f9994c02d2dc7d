"""Who makes the runs of a study: processes of this machine, or a Dask cluster that is there already."""

import multiprocessing
import multiprocessing.connection
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from speckd.runs.bench import Machine, Texts, prepare
from speckd.runs.cells import run_cell
from speckd.runs.plans import Cell
from speckd.runs.tables import Row

LAST_SECONDS = 40.0  # before the limit: what a run whose student is kept has for its figures


def run_here(
    machine: Machine, cells: Sequence[Cell], texts: Texts, processes: int, minutes: float | None
) -> Iterator[Row]:
    """Run cells in processes of this machine, in their order; yields rows as they come.

    Args:
        texts: of the plans, made before the first run. processes: how many; each takes one run after the other.
        minutes: when they are over, runs that are not finished are given up, and begun anew next time.
    """
    context = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU
    limit = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    machine.stop_file.unlink(missing_ok=True)
    waiting = list(cells)[::-1]
    workers: list[_Worker] = []
    first = _Worker(context, machine)
    first.ask(("prepare", (list(cells), texts)))
    workers += [first, *(_Worker(context, machine) for _ in range(min(processes, len(cells)) - 1))]
    prepared = False
    try:
        while True:
            busy = [worker for worker in workers if worker.cell is not None]
            if time.monotonic() >= limit - LAST_SECONDS and not machine.stop_file.exists():
                machine.stop_file.touch()
            if (prepared and not waiting and not busy) or not workers or time.monotonic() >= limit:
                return
            ready = multiprocessing.connection.wait(
                [worker.connection for worker in workers if worker.asked], min(5.0, max(0.0, limit - time.monotonic()))
            )
            for worker in [worker for worker in workers if worker.connection in ready]:
                try:
                    kind, result = worker.connection.recv()
                except EOFError:  # killed, out of memory: its cell waits for the next call of the study
                    workers.remove(worker)
                    if worker is first and not prepared:
                        raise RuntimeError(
                            "the study's first process ended before the teacher's part was made."
                        ) from None
                    continue
                worker.asked, worker.cell = False, None
                if kind == "failed":
                    raise RuntimeError(result)
                prepared = prepared or kind == "prepared"
                if kind == "row":
                    yield result
            for worker in workers:
                if prepared and waiting and not worker.asked:
                    worker.cell = waiting.pop()
                    worker.ask(("run", worker.cell))
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(10)
            worker.connection.close()


class _Worker:
    """A process that takes cells from a pipe."""

    def __init__(self, context: Any, machine: Machine) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, machine), daemon=True)
        self.process.start()
        theirs.close()
        self.cell: Cell | None = None
        self.asked = False

    def ask(self, message: tuple[str, Any]) -> None:
        self.asked = True
        self.connection.send(message)


def _serve(connection: Any, machine: Machine) -> None:
    while True:
        try:
            kind, what = connection.recv()
        except EOFError:
            return
        try:
            if kind == "prepare":
                prepare(machine, *what)
                connection.send(("prepared", None))
            else:
                connection.send(("row", run_cell(machine, what)))
        except Exception:
            connection.send(("failed", traceback.format_exc()))
            return


def run_on_dask(
    machine: Machine, cells: Sequence[Cell], texts: Texts, address: str | None, processes: int
) -> Iterator[Row]:
    """Run cells on a Dask cluster, which must see the study's folder; without an address, on one of this machine."""
    try:
        from distributed import Client, LocalCluster, as_completed
    except ImportError:
        raise ValueError("the Dask engine is not installed: run `pip install 'dask[distributed]'`.") from None
    cluster = None
    if address is None:
        cluster = LocalCluster(n_workers=processes, threads_per_worker=1, processes=True, dashboard_address=None)
    try:
        with Client(address or cluster) as client:
            client.submit(prepare, machine, list(cells), texts, pure=False).result()
            futures = [client.submit(run_cell, machine, cell, pure=False, priority=-n) for n, cell in enumerate(cells)]
            for future in as_completed(futures):
                yield future.result()
    finally:
        if cluster is not None:
            cluster.close()
