"""One observation or edit of one model, from ``with`` to the end of its block."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

from torch import nn

from probe.errors import CaptureError, UnseenLayersError, UsageError
from probe.seam.call import Batch
from probe.seam.forwards import Spans
from probe.seam.hub import Hub

Mode = Literal["fused", "shadow"]


class Session:
    """Looks at, and edits, the attention of one model while its block is open.

    ``mode="fused"``: our kernel computes the output and the statistics in one sweep (the default with interventions).
    ``mode="shadow"``: the model's own attention computes the output, bit-exact, and statistics are computed beside it
    (the default otherwise). Sessions on the same model in the same thread nest: every forward is computed once, edited
    by the interventions of all, outermost first, and seen by the observers of all.

    Raises `ModelInUseError` if another thread observes the model, `UnsupportedAttentionError` for interventions on a
    model that bypasses transformers' attention registry, `CaptureError` for a model without attention.
    """

    def __init__(
        self,
        model: nn.Module,
        observers: Sequence[Any] = (),
        interventions: Sequence[Any] = (),
        *,
        mode: str | None = None,
        kernels: str | None = None,
    ) -> None:
        if mode not in (None, "fused", "shadow"):
            raise UsageError(f"mode {mode!r} was asked; there are 'fused' and 'shadow'")
        if interventions and mode == "shadow":
            raise UsageError(
                "mode 'shadow' was asked with interventions; they need 'fused', which computes the output"
            )
        self.model = model
        self.observers = tuple(observers)
        self.interventions = tuple(interventions)
        # An intervention that keeps state does so in a copy of its own per session.
        self.running = tuple(one.live() if hasattr(one, "live") else one for one in interventions)
        self.effects: dict[int, set[str]] = {}  # number of an intervention -> modules where it took effect
        self._counted = 0
        self.asked_mode: Mode = "fused" if mode == "fused" or interventions else "shadow"
        self.kernels = kernels
        self._hub: Hub | None = None
        self._open = False

    def __enter__(self) -> "Session":
        if self._open:
            raise UsageError("a session was opened twice; make a new one for each block")
        self._hub = Hub.join(self.model, self)
        self._open = True
        self._counted = self._hub.forwards.count
        if not self._hub.places:
            self.__exit__(None, None, None)
            raise CaptureError(
                f"{type(self.model).__name__} was asked to be observed; it has no attention module: "
                "probe looks at transformers that attend"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open and self._hub is not None:
            self._open = False
            self._hub.leave(self)

    @property
    def hub(self) -> Hub:
        """The model's hub; raises `UsageError` before the session was opened."""
        if self._hub is None:
            raise UsageError("the session was asked before it was opened; use it in a with block")
        return self._hub

    @property
    def mode(self) -> str:
        """``fused``, ``shadow``, or ``eager`` (the fallback for models that bypass the registry)."""
        return self.hub.mode

    @property
    def batch(self) -> Batch | None:
        """The sequences of the forward in flight, or of the last one."""
        forward = self.hub.forwards.current or self.hub.forwards.last
        return None if forward is None else forward.batch

    @property
    def census(self) -> dict[str, int]:
        """Calls seen so far, per attention module."""
        return dict(self.hub.census)

    @property
    def unseen_layers(self) -> list[str]:
        """Attention modules that ran, but whose attention never reached the seam."""
        return sorted(name for name in self.hub.ran if not self.hub.census[name])

    @property
    def fallback_layers(self) -> list[str]:
        """Modules seen only through the weights they returned."""
        fallback = self.hub.fallback
        return sorted(name for name in self.hub.census if fallback is not None and self.hub.census[name])

    @property
    def backends(self) -> list[str]:
        """Which backends of the kernels computed so far: one, or two where one of them did not take every call."""
        return sorted(self.hub.backends)

    @property
    def notes(self) -> list[str]:
        """Lines that a reader of the numbers must see."""
        lines = list(dict.fromkeys(self.hub.forwards.notes))
        if self.mode == "shadow" and self.hub.mask_bytes:
            lines.append(
                f"shadow: the model's own attention built masks of up to {self.hub.mask_bytes:,} bytes"
            )
        if self.mode == "eager":
            lines.append(
                "eager fallback: the model bypasses transformers' attention registry; weights were read as returned"
            )
        lines += [line for one in self.running for line in getattr(one, "notes", ())]
        return lines

    @property
    def n_forwards(self) -> int:
        """Forwards since this session was opened."""
        return self.hub.forwards.count - self._counted

    @property
    def idle(self) -> list[Any]:
        """The interventions that have changed nothing so far."""
        return [one for index, one in enumerate(self.interventions) if not self.effects.get(index)]

    def require_seen(self) -> None:
        """Raise `UnseenLayersError` unless at least one layer was seen since the session opened."""
        if self.hub.forwards.count and not self.hub.census:
            names = self.unseen_layers or sorted(self.hub.places)
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            raise UnseenLayersError(
                f"{type(self.model).__name__} ran, but none of its {len(names)} attention layers could be seen "
                f"({shown}); it bypasses transformers' attention registry and returns no weights"
            )

    def announce(self, spans: Sequence[Spans]) -> None:
        """Name the spans of the next new sequences, row by row: bool tensors over each prompt's real tokens."""
        self.hub.forwards.announce(tuple(spans))

    @contextmanager
    def prefilling(self) -> Iterator[None]:
        """While open, continuations of a cache count as prefill (a prompt fed in chunks), not as decode steps."""
        self.hub.forwards.prefilling = True
        try:
            yield
        finally:
            self.hub.forwards.prefilling = False
