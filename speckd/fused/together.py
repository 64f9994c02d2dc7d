"""Many rows, few products: a model's projection, and the gradient that rows take together.

Rows that stay move up in the student's own buffer and wait there for a larger matrix product: a third of the work.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from speckd.heads import Head

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]  # of the student's hidden states, weight and bias

CAST_TOKENS = 8192  # tokens of a half-precision head that are widened at a time on a CPU


class Projection:
    """One model's hidden states and head: logits of some rows, divided by the temperature."""

    def __init__(self, hidden: Tensor, head: Head, vocabulary: int, temperature: float, dtype: torch.dtype) -> None:
        device = hidden.device.type
        self.hidden, self.dtype = hidden, dtype
        self.weight = head.weight[:vocabulary]  # (V, H)
        self.softcap, self.temperature = head.softcap, temperature
        # Without a cap, scale and temperature are one factor, and it moves to where the row is short.
        self.factor = head.scale / (temperature if head.softcap is None else head.softcap)
        self.bias = None if head.bias is None else head.bias[:vocabulary].to(dtype) * self.factor
        operand = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        self.operand = dtype if dtype == torch.float64 else operand
        if device != "cpu" and self.weight.dtype != self.operand:
            self.weight = self.weight.to(self.operand)  # once a call, not once a chunk

    def rows(self, rows: slice | Tensor) -> Tensor:
        """(n, H) hidden states, rounded to the operands' dtype."""
        return self.hidden[rows].to(self.operand)

    def logits(self, rows: slice | Tensor, out: Tensor) -> None:
        """(n, V) into ``out``; with a soft cap, the argument of its tanh."""
        hidden = self.rows(rows)
        if self.hidden.device.type != "cpu" and self.operand != self.dtype:
            torch.mm(hidden, self.weight.t(), out_dtype=self.dtype, out=out)
            out.mul_(self.factor)
        else:
            hidden = hidden.to(self.dtype) * self.factor
            for part, weight in self._weight_parts():
                torch.mm(hidden, weight.t(), out=out[:, part])
        if self.bias is not None:
            out.add_(self.bias)

    def pull_back(self, gradient: Tensor, factors: Tensor) -> Tensor:
        """(n, V) gradient rows, each still to be multiplied by its (n, 1) factor, to (n, H)."""
        if self.hidden.device.type != "cpu" and self.operand != self.dtype:
            rows = (gradient * factors).to(self.operand)  # not in place: the head's gradient needs the rows too
            return torch.mm(rows, self.weight, out_dtype=self.dtype).mul_(self.factor)
        total = gradient.new_zeros(len(gradient), self.weight.shape[1])
        for part, weight in self._weight_parts():
            torch.addmm(total, gradient[:, part], weight, out=total)
        return total.mul_(factors * self.factor)

    def _weight_parts(self) -> Iterator[tuple[slice, Tensor]]:
        """The weight in the dtype of the sums: whole, or widened piece by piece."""
        if self.weight.dtype == self.operand == self.dtype:
            yield slice(None), self.weight
            return
        for start in range(0, len(self.weight), CAST_TOKENS):
            part = slice(start, start + CAST_TOKENS)
            yield part, self.weight[part].to(self.operand).to(self.dtype)


class Gradient:
    """The gradients with respect to the student, summed chunk by chunk."""

    def __init__(self, student: Projection, full_weight: torch.Size, wanted: tuple[bool, bool, bool]) -> None:
        self.student, dtype = student, student.dtype
        of_hidden, of_weight, of_bias = wanted
        new = student.hidden.new_zeros
        self.hidden = new(student.hidden.shape, dtype=dtype) if of_hidden else None
        self.weight = new(full_weight, dtype=dtype) if of_weight else None  # (V of the head, H)
        self.bias = new(full_weight[:1], dtype=dtype) if of_bias else None

    def add(self, gradient: Tensor, factors: Tensor, rows: slice | Tensor) -> None:
        """Add (m, V) rows of gradient, each still to be multiplied by its factor."""
        factors = factors[:, None]
        if self.hidden is not None:
            self.hidden[rows] = self.student.pull_back(gradient, factors)
        if self.weight is not None:
            hidden = self.student.rows(rows).to(gradient.dtype) * (factors * self.student.factor)
            part = self.weight[: gradient.shape[1]]
            torch.addmm(part, gradient.t(), hidden, out=part)
        if self.bias is not None:
            part = self.bias[: gradient.shape[1]]
            torch.addmv(part, gradient.t(), factors[:, 0] * self.student.factor, out=part)

    def results(self) -> Gradients:
        return self.hidden, self.weight, self.bias


class Waiting:
    """Rows of gradient at the top of the student's buffer, until there are enough of them for a large product.

    Rows only ever move up, over logits that are done with, so that nothing is gathered elsewhere.
    """

    buffer: Tensor  # (rows of two chunks, V), set by _chunks

    def __init__(self, gradient: Gradient) -> None:
        self.gradient, self.n = gradient, 0
        self.factors: list[Tensor] = []
        self.rows: list[Tensor] = []

    def room(self, n_rows: int) -> Tensor:
        """(n_rows, V) where the next rows of gradient are to be written; then ``wait`` names them."""
        return self.buffer[self.n : self.n + n_rows]

    def wait(self, factors: Tensor, rows: Tensor) -> None:
        """The rows just written: the factor of each, and its row in the student's hidden states."""
        self.factors.append(factors)
        self.rows.append(rows)
        self.n += len(rows)

    def logits(self, n_rows: int) -> Tensor:
        """(n_rows, V) below the rows that wait, for the next chunk; where it would not fit, the product is taken."""
        if self.n + n_rows > len(self.buffer):
            self.flush()
        return self.room(n_rows)

    def flush(self) -> None:
        """Add the rows that wait to the gradient."""
        if self.n:
            self.gradient.add(self.buffer[: self.n], torch.cat(self.factors), torch.cat(self.rows))
            self.factors, self.rows, self.n = [], [], 0
