"""Where a run on the models stands: what the engine tells a page, step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import speckd

ENDS = ("done", "stopped", "failed")


@dataclass(frozen=True)
class Step:
    """Where a run stands.

    Attributes:
        state: "waiting", "loading", "writing", "measuring", or one of the ends: "done", "stopped", "failed".
        text: one sentence for a person.
        share: how much is done, 0 to 1; None where nobody knows.
        partial: the response so far, while it is being written.
        n_tokens: written so far.
        trace: of a question, at the end "done".
        rounds: of a decoding, those that are over, each as plain data; the same list grows from step to step.
        record: of a decoding, at the end "done"; also at "stopped" and "failed" where some rounds were over.
    """

    state: str
    text: str
    share: float | None = None
    partial: str | None = None
    n_tokens: int = 0
    trace: speckd.Trace | None = None
    rounds: Sequence[dict[str, Any]] = ()
    record: speckd.DecodeRecord | None = None

    @property
    def made(self) -> speckd.Trace | speckd.DecodeRecord | None:
        """What the run was for, once it is there."""
        return self.trace if self.trace is not None else self.record

    @property
    def is_end(self) -> bool:
        return self.state in ENDS
