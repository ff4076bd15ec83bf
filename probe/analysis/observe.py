"""``probe.observe``: metrics on any forward of a model, ``generate()`` included, for as long as a block lasts."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr
from probe_kernels import chosen_backend
from probe_kernels.types import Attended, Want
from torch import nn

from probe.analysis.choice import check_backend, choose
from probe.analysis.edit import spans_of
from probe.analysis.first_use import drift_of, verify_on_first_use
from probe.analysis.guard import FiniteGuard
from probe.analysis.keep_map import MapKeeper
from probe.analysis.keep_qk import QkKeeper
from probe.analysis.options import mode_of
from probe.analysis.ready import check_interventions, ready, require_edited, require_effect
from probe.analysis.records import model_record
from probe.analysis.tally import Tally
from probe.errors import ReportError, UsageError
from probe.interventions.base import edits_pattern
from probe.metrics.answering import answers, reordered
from probe.metrics.base import CellKey
from probe.models import LoadedModel, as_loaded
from probe.prompts import Prompt
from probe.report import Report
from probe.report.kept import KeptLayer, map_array
from probe.report.provenance import Provenance, utc_now
from probe.seam.call import Activation, AttentionCall, Point
from probe.seam.observer import ModelObserver
from probe.seam.session import Session
from probe.terms import HeadId


class OfPhase:
    """An observer that lets another see the calls of one phase."""

    def __init__(self, observer: Any, phase: str) -> None:
        self.observer, self.phase = observer, phase

    def want(self, call: AttentionCall) -> Want:
        """What the other wants, in its phase."""
        want: Want = self.observer.want(call) if call.phase == self.phase else Want(z=False)
        return want

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Pass on calls of the phase."""
        if call.phase == self.phase:
            self.observer.update(call, attended)

    @property
    def points(self) -> frozenset[Point]:
        """The points that the other needs."""
        found: frozenset[Point] = getattr(self.observer, "points", frozenset())
        return found

    def activation(self, seen: Activation) -> None:
        """Pass on activations of the phase."""
        if seen.phase == self.phase:
            self.observer.activation(seen)

    def prepare(self, model: nn.Module) -> Callable[[], None]:
        """Tell the other the model, if it asks for it."""
        return self.observer.prepare(model) if isinstance(self.observer, ModelObserver) else lambda: None


class Run:
    """One observation of one model. Use it as a context manager; its answers stay after the block.

    Forwards inside the block are seen whoever calls them: ``model(...)``, ``generate()``, another thread.
    """

    def __init__(
        self, loaded: LoadedModel, observers: dict[str, Any], session: Session, phase: str | None
    ) -> None:
        self.loaded = loaded
        self.session = session
        self.started = utc_now()
        self._metrics: tuple[Any, ...] = observers["metrics"]
        self._keeper: Any = observers["keeper"]
        self._tally: Tally = observers["tally"]
        self._phase = phase
        self.first: tuple[Prompt, ...] = ()  # the sequences of the first forward
        self._used = False

    def __enter__(self) -> "Run":
        if self._used:
            raise UsageError("this observation was used already; make another with probe.observe(...)")
        self._used = True
        self.session.__enter__()
        if self.first:
            self.announce(self.first)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.__exit__(kind, error, trace)
        if error is None:
            require_edited(self.session.interventions, self.session)
            require_effect(self.session)

    def announce(self, prompts: Sequence[Prompt]) -> None:
        """Say which prompts the next new sequences are, row by row, so that their spans are known."""
        self.session.announce([spans_of(prompt) for prompt in prompts])

    def report(self) -> Report:
        """The answers over everything seen so far; values per prompt are per sequence, in order of appearance.

        Raises:
            UsageError: nothing was seen yet.
            UnseenLayersError: the model ran, and none of its attention was seen.
        """
        if self._used:
            self.session.require_seen()
        if not self._used or not self._tally.tokens:
            raise UsageError("a report was asked before any forward; run the model inside the with block")
        collected = []
        for metric in self._metrics:
            if metric.cells:
                collected += answers(metric, tokens=not reordered(metric))
        silent = [f"{m.spec} saw no call of phase {self._phase}" for m in self._metrics if not m.cells]
        provenance = Provenance(
            model=model_record(self.loaded),
            mode=self.session.mode,
            kernels="+".join(self.session.backends)
            or chosen_backend(self.session.kernels, self.loaded.device),
            logit_drift=drift_of(self.loaded.model, self.session.mode),
            tokens=sum(self._tally.tokens.values()),
            prompts=len(self._tally.tokens),
            unseen_layers=tuple(self.session.unseen_layers),
            fallback_layers=tuple(self.session.fallback_layers),
            started=self.started,
            ended=utc_now(),
            settings=self._settings(),
            notes=(*self.loaded.notes, *self.session.notes, *silent),
        )
        return Report(collected, provenance)

    def rows(
        self, layer: int, head: int, queries: slice | Sequence[int], tower: str = "decoder", prompt: int = -1
    ) -> xr.DataArray:
        """Rows of one head's pattern, axes (query_pos, key_pos) in real-token numbers; needs ``keep="qk"``.

        Args:
            layer: The layer within its tower.
            head: The query head.
            queries: Which of the rows seen.
            tower: The tower.
            prompt: Which sequence, in order of appearance; -1 is the last.

        Raises:
            ReportError: queries and keys were not kept, or there is no such layer, head or row.
        """
        kept = self._layer(layer, tower, prompt)
        values = kept.rows(head, queries)
        n = len(kept.query_tokens)
        chosen = np.arange(n)[queries] if isinstance(queries, slice) else np.asarray(queries)
        return _labelled(values, kept.query_tokens[chosen], kept.key_tokens, HeadId(tower, layer, head))

    def tile(
        self,
        layer: int,
        head: int,
        queries: slice,
        keys: slice,
        shape: tuple[int, int] = (256, 256),
        tower: str = "decoder",
        prompt: int = -1,
    ) -> xr.DataArray:
        """Mean pattern over the cells of a grid on queries × keys, at most `shape` cells; needs ``keep="qk"``.

        Coordinates are the first token of each cell; hidden pairs count as 0.

        Raises:
            ReportError: as `rows`.
        """
        kept = self._layer(layer, tower, prompt)
        values = kept.tile(head, queries, keys, shape)
        query_tokens, key_tokens = kept.query_tokens[queries], kept.key_tokens[keys]
        step = max(1, -(-len(query_tokens) // max(1, shape[0])))
        width = max(1, -(-len(key_tokens) // max(1, shape[1])))
        return _labelled(values, query_tokens[::step], key_tokens[::width], HeadId(tower, layer, head))

    def map(self, layer: int, tower: str = "decoder", prompt: int = -1) -> xr.DataArray:
        """One layer's pooled maps, axes (head, query_pos, key_pos), at most 256 × 256; needs ``keep="map"``."""
        if not isinstance(self._keeper, MapKeeper):
            raise ReportError("a map was asked; nothing was kept: observe with keep='map'")
        pooled = self._keeper.maps[self._key(self._keeper.maps, layer, tower, prompt)]
        return map_array(pooled.means().cpu().numpy(), pooled.query_block, pooled.key_block)

    def _layer(self, layer: int, tower: str, prompt: int) -> KeptLayer:
        if not isinstance(self._keeper, QkKeeper):
            raise ReportError(
                "rows of a pattern were asked; queries and keys were not kept: observe with keep='qk'"
            )
        key = self._key(self._keeper.parts, layer, tower, prompt)
        return KeptLayer(tower, layer, self._keeper.parts[key])

    def _key(self, kept: dict[CellKey, Any], layer: int, tower: str, prompt: int) -> CellKey:
        prompts = sorted({key.prompt for key in kept if key.tower == tower})
        if not prompts or not -len(prompts) <= prompt < len(prompts):
            raise ReportError(f"prompt {prompt} of tower {tower!r} was asked; {len(prompts)} were seen there")
        key = CellKey(prompts[prompt], tower, layer)
        if key not in kept:
            layers = sorted({one.layer for one in kept if one.tower == tower})
            raise ReportError(f"layer {layer} of tower {tower!r} was asked; seen were layers {layers}")
        return key

    def _settings(self) -> dict[str, object]:
        names = [one.name for one in self.session.interventions]
        shown: dict[str, object] = {"phase": self._phase, "interventions": names}
        return {name: value for name, value in shown.items() if value}


def observe(
    model: object,
    metrics: object = None,
    interventions: object = (),
    mode: str | None = None,
    *,
    keep: str = "none",
    kernels: str | None = None,
    phase: str | None = None,
    prompts: Sequence[Prompt] | None = None,
) -> Run:
    """Watch a model's heads while somebody uses it.

    >>> with observe(hf_model, metrics=["entropy"]) as run:  # doctest: +SKIP
    ...     hf_model.generate(**inputs)
    >>> run.report()["entropy"]  # doctest: +SKIP

    Args:
        model: A Hugging Face model, ``(model, tokenizer)``, a `LoadedModel`, or a name.
        metrics: Specs or metric instances; None: the default metrics. Experiments belong to `analyze`.
        interventions: Edits that take effect meanwhile.
        mode: ``shadow`` (the model's own output, bit-exact; the default without interventions) or ``fused``.
        keep: ``qk`` for exact rows and tiles afterwards, ``map`` for pooled maps.
        kernels: Backend: ``reference``, ``torch`` or ``triton``; None chooses by device.
        phase: Only calls of ``prefill`` or of ``decode``; None pools both.
        prompts: The sequences of the first forward, row by row: interventions on named spans need them.

    Raises:
        UsageError: a choice that does not exist or does not go together.
        UnknownNameError: a metric, or an intervention's layer, that does not exist.
    """
    choice = choose(metrics)
    if choice.experiments:
        raise UsageError(
            f"{choice.experiments[0].spec!r} was asked of observe; it brings its own prompts: use probe.analyze"
        )
    if keep not in ("none", "map", "qk"):
        raise UsageError(f"keep={keep!r} was asked; it is one of none, map, qk")
    if phase not in (None, "prefill", "decode"):
        raise UsageError(f"phase={phase!r} was asked; it is prefill or decode, or None for both")
    edits = check_interventions(interventions)
    if keep == "qk" and any(map(edits_pattern, edits)):
        raise UsageError("keep='qk' was asked with an intervention that edits scores; use keep='map'")
    check_backend(kernels)
    loaded = as_loaded(model)
    check_backend(kernels, loaded)
    edits = ready(edits, loaded, prompts)
    if mode == "fused":
        verify_on_first_use(loaded.model)
    keeper = QkKeeper() if keep == "qk" else MapKeeper() if keep == "map" else None
    tally = Tally()
    watching: list[Any] = [*choice.metrics, *([keeper] if keeper is not None else [])]
    if phase is not None:
        watching = [OfPhase(one, phase) for one in watching]
    observers = [FiniteGuard(), tally, *watching]
    session = Session(loaded.model, observers, edits, mode=mode_of(mode), kernels=kernels)
    run = Run(loaded, {"metrics": choice.metrics, "keeper": keeper, "tally": tally}, session, phase)
    run.first = tuple(prompts or ())
    return run


def _labelled(
    values: np.ndarray, query_tokens: np.ndarray, key_tokens: np.ndarray, head: HeadId
) -> xr.DataArray:
    coords = {"query_pos": np.asarray(query_tokens), "key_pos": np.asarray(key_tokens)}
    return xr.DataArray(values, dims=("query_pos", "key_pos"), coords=coords, name=str(head))
