"""A model's blocks in the order in which they run, and running only some of them: the others answer with what is known.

A block whose input an edit cannot have changed need not run: its output is what it was without the edit. While a part
runs, the blocks before it return a recorded output; embeddings, masks and rotations are the model's own in every case.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probe.seam.points import first_tensor
from probe.seam.recorded import Recorded, blocks


class _Reached(Exception):  # noqa: N818 -- no error: it ends a forward that has gone far enough
    """A forward came to the block after which nothing is needed."""

    def __init__(self, output: object) -> None:
        self.output = output
        super().__init__()


@dataclass(frozen=True)
class Hidden:
    """What a block returned: hidden states at `index` of a tuple, or alone."""

    output: Any
    index: int

    @property
    def tensor(self) -> Tensor:
        """The hidden states ``[batch, token, d_model]``."""
        found = first_tensor(self.output, self.index)
        if found is None:
            raise TypeError("a block returned no hidden states")
        return found

    @property
    def alone(self) -> bool:
        """Whether hidden states are the only tensor in it, so that batches may be put together from several."""
        rest = self.output if isinstance(self.output, tuple | list) else ()
        return not any(isinstance(one, Tensor) for place, one in enumerate(rest) if place != self.index)

    def holding(self, tensor: Tensor) -> "Hidden":
        """The same output with other hidden states."""
        if isinstance(self.output, Tensor):
            return Hidden(tensor, self.index)
        parts = list(self.output)
        parts[self.index] = tensor
        return Hidden(type(self.output)(parts), self.index)


def stacked(several: Sequence[Hidden]) -> Hidden:
    """Outputs for several batches as one for all of them."""
    if len(several) == 1:
        return several[0]
    return several[0].holding(torch.cat([one.tensor for one in several]))


def repeated(hidden: Hidden | None, copies: int) -> Hidden | None:
    """An output for the same batch several times over."""
    return hidden if hidden is None or copies == 1 else stacked([hidden] * copies)


class Stack:
    """The blocks of one model, in forward order."""

    def __init__(self, order: Sequence[Recorded]) -> None:
        self.order = tuple(order)

    def __len__(self) -> int:
        return len(self.order)

    @classmethod
    def found(cls, model: nn.Module, forward: Callable[[], object]) -> "Stack | None":
        """The stack as one forward runs it; None where a block runs twice, or nothing declares blocks."""
        ran: list[Recorded] = []

        def note(block: Recorded) -> Callable[..., None]:
            return lambda *_: ran.append(block)

        handles = [block.module.register_forward_pre_hook(note(block)) for block in blocks(model)]
        try:
            forward()
        finally:
            for handle in handles:
                handle.remove()
        names = [block.name for block in ran]
        chains = {name.rpartition(".")[0] for name in names}
        return cls(ran) if names and len(set(names)) == len(names) and len(chains) == 1 else None

    def of(self, module: str) -> int | None:
        """The number of the block that a module lies in."""
        inside = (n for n, block in enumerate(self.order) if f"{module}.".startswith(f"{block.name}."))
        return next(inside, None)

    def run(
        self,
        forward: Callable[[], Any],
        *,
        start: int = 0,
        entering: Hidden | None = None,
        stop: int | None = None,
    ) -> Any:
        """Run `forward` with blocks `start` to `stop` only.

        Args:
            forward: Calls the model.
            start: The first block that runs; those before it answer with `entering`, which block `start` then gets.
            entering: What block ``start - 1`` returned.
            stop: Blocks from here on do not run; None = all run.

        Returns:
            The output of block ``stop - 1`` as `Hidden`, or the model's output where `stop` is None.
        """
        if stop is not None and stop == start and entering is not None:
            return entering
        skipped = [block.module for block in self.order[:start]]
        with replaced_forward(skipped, None if entering is None else entering.output):
            if stop is None:
                return forward()
            last = self.order[stop - 1]
            handle = last.module.register_forward_hook(_reached)
            try:
                forward()
            except _Reached as end:
                return Hidden(end.output, last.index)
            finally:
                handle.remove()
        raise RuntimeError(f"block {last.name} did not run")


@contextmanager
def replaced_forward(modules: Sequence[nn.Module], output: object) -> Iterator[None]:
    """While open, these modules return `output` whatever they are given."""
    before = [module.__dict__.get("forward") for module in modules]
    try:
        for module in modules:
            module.__dict__["forward"] = lambda *_, **__: output
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            module.__dict__.pop("forward", None)
            if own is not None:
                module.__dict__["forward"] = own


def _reached(_module: nn.Module, _args: object, output: object) -> None:
    raise _Reached(output)
