"""Activation patching: values of another run put in the place of this run's own, other heads frozen if asked."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Unpack

from probe_kernels.types import Attended, Edits

from probe.errors import InterventionError, UsageError
from probe.interventions.recording import WHAT, Node, Recording
from probe.interventions.replay import Replay, ReplayPatterns
from probe.interventions.substitute import InStream, InZ, node_target, replaced_z
from probe.interventions.target import Target, Where, name_of
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import AttentionCall, Place
from probe.seam.stage import Stage
from probe.terms import HeadId

Freeze = tuple[HeadId, ...] | Literal["others"] | None


@dataclass(frozen=True)
class Patch:
    """z, pattern or stream := that of `source`, at the chosen heads and rows; z of frozen heads := that of `base`."""

    target: Target
    source: Recording = field(compare=False, repr=False)
    node: str = "z"
    freeze: Freeze = None
    base: Recording | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """How reports name it (a run cannot be named, so it cannot be made from its name)."""
        node = None if self.node == "z" else self.node
        frozen = self.freeze if isinstance(self.freeze, str | None) else "+".join(map(str, self.freeze))
        return name_of("patch", self.target, node=node, freeze=frozen, source="<recording>")

    @property
    def settles(self) -> dict[str, tuple[str, int]]:
        """What it replaces: z, a pattern, or a stream."""
        return {self.node: ("patch", id(self.source))}

    def control(self, seed: int) -> "Patch":
        """The same, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def require(self, places: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Raise where the model, or the recording, does not have what is patched."""
        self.target.require(places, heads)
        per_head = not self.node.startswith("resid")
        self.source.require_node(self.node, self.name)
        self.source.require_covers(self.target, places.values(), self.name, heads=per_head)
        if self.base is not None:
            self.base.require_node("z", f"{self.name} with base")
            frozen = Target() if self.freeze == "others" else Target.of(self.freeze)
            frozen.require(places, heads)
            self.base.require_covers(frozen, places.values(), f"{self.name} with base", heads=True)

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None = None) -> "Patch":
        """The same; raises `InterventionError` for another model than was recorded, or prompts that do not match."""
        for one in (self.source, *(() if self.base is None else (self.base,))):
            one.require_model(loaded.model, self.name)
            if prompts is not None:
                _require_match(one, prompts, self)
        return self

    def live(self) -> Any:
        """What edits while a session lasts."""
        frozen = None if self.base is None else _Frozen(self, self.base)
        return _Patching.of(self, frozen)


class _Frozen:
    """z of frozen heads := the base run's."""

    def __init__(self, patch: Patch, base: Recording) -> None:
        self.patch = patch
        self.values = Replay(f"{patch.name} with base", base, "z", patch.target)

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result with z of the frozen heads replaced."""
        own = self.patch.target
        free = replace(own, heads=None, layers=None, tower=None, control_seed=None)
        if isinstance(self.patch.freeze, tuple):
            return replaced_z(replace(free, heads=self.patch.freeze), self.values, call, attended)
        patched = () if self.patch.node.startswith("resid") else own.heads_of(call)
        place = call.place
        others = [HeadId(place.tower, place.layer, h) for h in range(call.n_heads) if h not in patched]
        return (
            replaced_z(replace(free, heads=tuple(others)), self.values, call, attended)
            if others
            else attended
        )


class _Patching:
    """A patch while a session lasts; it has just the methods that its node and its frozen heads need."""

    attended: Callable[[AttentionCall, Attended], Attended]
    edits: Callable[[AttentionCall], Edits]
    attach: Callable[[Stage], Callable[[], None]]

    @classmethod
    def of(cls, patch: Patch, frozen: _Frozen | None) -> "_Patching":
        """The methods that edit, looked up by the seam."""
        made, own = cls(), patch.target
        if patch.node == "pattern":
            made.edits = ReplayPatterns(patch.name, patch.source, own).edits
        elif patch.node == "z":
            made.attended = InZ(own, Replay(patch.name, patch.source, "z", own)).attended
        else:
            values = Replay(patch.name, patch.source, patch.node, own)
            side: Literal["resid_pre", "resid_post"] = (
                "resid_post" if patch.node == "resid_post" else "resid_pre"
            )
            made.attach = InStream(own, values, side).attach
        if frozen is not None:
            first = getattr(made, "attended", None)
            made.attended = frozen.attended if first is None else _one_after_another(first, frozen.attended)
        return made


def _one_after_another(
    first: Callable[[AttentionCall, Attended], Attended], then: Callable[[AttentionCall, Attended], Attended]
) -> Callable[[AttentionCall, Attended], Attended]:
    return lambda call, attended: then(call, first(call, attended))


def _require_match(source: Recording, prompts: Sequence[Prompt], patch: Patch) -> None:
    """Raise `InterventionError` where prompts are known and do not match the recorded ones, one by one."""
    if source.n_prompts not in (1, len(prompts)):
        raise InterventionError(
            f"{patch.name} was asked for {len(prompts)} prompts; the recording holds {source.n_prompts}: record one "
            "run per prompt, or a single one for all"
        )
    if isinstance(patch.target.queries, tuple):
        return
    for number, prompt in enumerate(prompts):
        length = source.lengths[number % source.n_prompts]
        if length and length != len(prompt):
            raise InterventionError(
                f"{patch.name} was asked; prompt {prompt.id!r} has {len(prompt)} tokens, its recorded run {length}: "
                "use prompts of equal length, or name rows that both have with queries=(start, stop)"
            )


def patch(
    source: Recording,
    node: Node = "z",
    heads: Iterable[str | HeadId] | None = None,
    freeze: Iterable[str | HeadId] | Literal["others"] | None = None,
    base: Recording | None = None,
    **where: Unpack[Where],
) -> Patch:
    """Substitute what another run computed at chosen heads, layers and tokens (activation patching; path patching).

    ``z``: a head's output. ``pattern``: its map, made anew from the source's queries and keys, applied to this run's
    values (a learned sink's mass comes with it). ``resid``, ``resid_post``: the stream entering, leaving a layer.
    With `base`, z of frozen heads is held at that run's values in every layer and at the same rows: the sender comes
    from the corrupted run and every other head from the clean one (path patching, Wang et al. 2023, arXiv:2211.00593;
    Merullo et al. 2024, arXiv:2310.08744). To patch a receiver's input in a second pass, take
    ``recording(…, interventions=[patch(…)])`` as the next source.

    The k-th sequence of a session takes the k-th recorded one, and the first again after the last; a recording of one
    sequence serves all. Tokens are counted without padding. Runs must have one length, unless ``queries=(start, stop)``
    names the rows; generated tokens beyond the recording are left alone.

    Args:
        source: The run to take values from.
        node: What to substitute.
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out. Not for a stream.
        freeze: Heads whose z is held at `base`'s, or ``"others"``: every head but the patched ones (the default with
            `base`).
        base: The run that frozen heads are held at.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: a head, layer, span, phase or node that cannot be one; frozen heads without `base`, or patched too.
        InterventionError: in use, a model, prompts or lengths other than the recorded ones; in `probe.edit` before the
            first forward where prompts are announced.
    """
    for what, given in (("source", source), ("base", base)):
        if not isinstance(given, Recording) and not (what == "base" and given is None):
            raise UsageError(
                f"patch with {what}={type(given).__name__} was asked; give a recording(model, prompts)"
            )
    target = node_target(Target.of(heads, where), node, "patch", WHAT)
    if base is None and freeze is not None:
        raise UsageError("patch with freeze was asked without base; give the recording that they are held at")
    return Patch(target, source, node, _frozen(freeze, target, node) if base is not None else None, base)


def _frozen(freeze: Iterable[str | HeadId] | str | None, target: Target, node: str) -> Freeze:
    if freeze is None or freeze == "others":
        return "others"
    frozen = Target.of(freeze).heads or ()
    twice = [] if node.startswith("resid") else [str(h) for h in frozen if h in (target.heads or frozen)]
    if twice:
        raise UsageError(
            f"patch was asked to patch {', '.join(twice)} and to freeze them; each head is one or the other"
        )
    return frozen
