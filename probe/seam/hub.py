"""The one owner of an observed model: switches its attention, makes calls of what passes, serves every session.

Scope is the model object, not the thread: attention modules are looked up by identity, so ``generate()`` in a worker
thread is seen and edited like any other call.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from probe_kernels import attend, backend_for, pattern_block
from probe_kernels.types import Attended, BlockEdit, Edits, Want
from torch import Tensor, nn

from probe.errors import ModelInUseError, UnsupportedAttentionError
from probe.seam.build import batch_for, build_call
from probe.seam.call import Activation, AttentionCall, Batch, Phase, Place
from probe.seam.effects import told
from probe.seam.fallback import Fallback
from probe.seam.forwards import Forward, Forwards
from probe.seam.masks import LazyMask, spec_of
from probe.seam.observer import ModelObserver
from probe.seam.places import attention_modules, places
from probe.seam.points import attach as attach_points
from probe.seam.stage import Stage
from probe.seam.switch import AttentionFunction, Switched, register_fused, shadow, switchable


@runtime_checkable
class Member(Protocol):
    """What the hub needs of a session."""

    observers: tuple[Any, ...]
    interventions: tuple[Any, ...]
    running: tuple[Any, ...]
    effects: dict[int, set[str]]
    asked_mode: Literal["fused", "shadow"]
    kernels: str | None


_hubs: dict[int, "Hub"] = {}  # id(attention module) -> the hub of its model
_by_model: dict[int, "Hub"] = {}
_lock = threading.RLock()


class Hub:
    """Everything that is switched, hooked and counted while a model is observed or edited."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.owner = threading.get_ident()
        self.members: list[Member] = []
        self.forwards = Forwards(model)
        self.places = places(model)
        self.mode = ""
        self.census: Counter[str] = Counter()
        self.ran: set[str] = set()  # attention modules whose forward began
        self.backends: set[str] = set()  # who computed
        self.fallback: Fallback | None = None
        self._names: dict[int, str] = {}
        self._modules = attention_modules(model)
        self._quiet = 0  # passes in flight that observers must not see
        self.mask_bytes = 0  # the largest mask that the model's own implementation built (shadow)
        self._undo: list[Callable[[], None]] = []

    # -- membership ----------------------------------------------------------------------------------------------

    @classmethod
    def join(cls, model: nn.Module, member: Member) -> "Hub":
        """Add a session to the model's hub, opening it for the first; raises `ModelInUseError` for other owners."""
        with _lock:
            hub = _by_model.get(id(model))
            if hub is None:
                hub = cls(model)
                hub._claim()
            elif hub.owner != threading.get_ident():
                raise ModelInUseError(
                    f"{type(model).__name__} is already observed or edited by another thread; wait for it to finish, "
                    "or load a second copy of the model"
                )
            hub.members.append(member)
            try:
                hub._reconfigure()
            except BaseException:
                hub.leave(member)
                raise
            return hub

    def leave(self, member: Member) -> None:
        """Remove a session; the last one restores the model."""
        with _lock:
            self.members.remove(member)
            if self.members:
                self._reconfigure()
                return
            self._release()
            for key in [key for key, hub in _hubs.items() if hub is self]:
                del _hubs[key]
            _by_model.pop(id(self.model), None)

    def _claim(self) -> None:
        for name, module in self.model.named_modules():
            other = _hubs.get(id(module))
            if other is not None:
                raise ModelInUseError(
                    f"part of {type(self.model).__name__} ({name or 'itself'}) is already observed through "
                    f"{type(other.model).__name__}; open both on the same model object"
                )
        for name, module in self.model.named_modules():
            self._names[id(module)] = name
            _hubs[id(module)] = self
        _by_model[id(self.model)] = self

    # -- switching -----------------------------------------------------------------------------------------------

    def _reconfigure(self) -> None:
        """Set the model up for what its sessions now need: fused if any asks for it, else shadow."""
        self._release()
        self.mode = "fused" if any(m.asked_mode == "fused" for m in self.members) else "shadow"
        self.forwards.edit_inputs = self._edit_inputs if self._with("inputs") else None
        self.forwards.attach()
        self._undo.append(self.forwards.detach_hooks)
        for name, module in self._modules.items():
            handle = module.register_forward_pre_hook(self._enter(name), prepend=True)
            self._undo.append(handle.remove)
        if not switchable(self.model):
            self._fall_back()
        elif self.mode == "fused":
            register_fused(fused_attention)
            switched = Switched()
            self._undo.append(switched.restore)
            switched.fuse(self.model)
        else:
            self._undo.append(shadow(self.model, shadow_attention))
        for observer in self._observers():
            if isinstance(observer, ModelObserver):
                self._undo.append(observer.prepare(self.model))
        for member, index, one in self._with("attach"):
            self._undo.append(one.attach(self._stage(member, index)))
        wanted = frozenset(point for o in self._observers() for point in getattr(o, "points", ()))
        if wanted:
            self._undo.append(attach_points(self.model, wanted, self._activation, self._now))

    def _fall_back(self) -> None:
        if any(self._with(method) for method in ("call", "edits", "attended")):
            raise UnsupportedAttentionError(
                f"{type(self.model).__name__} does not read its attention from transformers' registry, so an "
                "intervention could not take effect; nothing was changed"
            )
        self.mode = "eager"
        self.fallback = Fallback(self)
        self._undo.append(self.fallback.attach())

    def _release(self) -> None:
        while self._undo:
            self._undo.pop()()
        self.fallback = None

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: Any) -> None:
            self.ran.add(name)
            forward = self.forwards.current
            if forward is not None:
                forward.entries[name] = forward.entries.get(name, 0) + 1

        return enter

    # -- what passes ---------------------------------------------------------------------------------------------

    def _now(self) -> tuple[Batch, Phase] | None:
        """Batch and phase of the forward in flight."""
        forward = self.forwards.current
        return None if forward is None else (forward.batch, forward.phase)

    def _observers(self) -> list[Any]:
        return [observer for member in self.members for observer in member.observers]

    def _with(self, method: str) -> list[tuple[Member, int, Any]]:
        """The running interventions that have a method, with their session and their number in it."""
        running = [
            (member, index, one) for member in self.members for index, one in enumerate(member.running)
        ]
        return [entry for entry in running if hasattr(entry[2], method)]

    def _stage(self, member: Member, index: int) -> Stage:
        def fired(module: str) -> None:
            member.effects.setdefault(index, set()).add(module)

        return Stage(self.model, self.places, self._now, fired, self.forwards.again, self._unobserved)

    @contextmanager
    def _unobserved(self) -> Iterator[None]:
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1

    def _edit_inputs(self, forward: Forward, kwargs: dict[str, Any]) -> dict[str, Any]:
        for member, index, one in self._with("inputs"):
            made = one.inputs(kwargs, forward.batch, forward.phase)
            if made is not kwargs:
                member.effects.setdefault(index, set()).add("")
            kwargs = made
        return kwargs

    def edit(self, call: AttentionCall) -> tuple[AttentionCall, Edits | None]:
        """The call after every ``call`` edit, and the edits of its blocks, in order."""
        module = call.place.module
        for member, index, one in self._with("call"):
            made = one.call(call)
            if made is not call:
                member.effects.setdefault(index, set()).add(module)
            call = made
        scores: tuple[BlockEdit, ...] = ()
        probs: tuple[BlockEdit, ...] = ()
        for member, index, one in self._with("edits"):
            edits = one.edits(call)
            if edits.scores or edits.probs:
                edits = self._noted(member, index, one, edits, module)
            scores, probs = scores + edits.scores, probs + edits.probs
        return call, Edits(scores, probs) if scores or probs else None

    @staticmethod
    def _noted(member: Member, index: int, one: Any, edits: Edits, module: str) -> Edits:
        """The edits, whose effect is noted: at once, or for a narrow one when it first changes a block."""
        fired = member.effects.setdefault(index, set())
        if fired or not getattr(one, "narrow", False):
            fired.add(module)
            return edits
        return told(edits, lambda: fired.add(module))

    def edit_attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result after every ``attended`` edit, in order."""
        for member, index, one in self._with("attended"):
            made = one.attended(call, attended)
            if made is not attended:
                member.effects.setdefault(index, set()).add(call.place.module)
            attended = made
        return attended

    def _activation(self, seen: Activation) -> None:
        if self._quiet:
            return
        for observer in self._observers():
            if seen.point in getattr(observer, "points", ()):
                observer.activation(seen)

    def place(self, module: nn.Module) -> Place:
        """Where a module is; a module entered again in one forward (shared weights) is a further layer."""
        name = self._names[id(module)]
        place = self.places.get(name)
        if place is None:
            layer = getattr(module, "layer_idx", None)
            numbers = [int(part) for part in name.split(".") if part.isdigit()]
            layer = layer if isinstance(layer, int) else (numbers[0] if numbers else len(self.places))
            place = self.places[name] = Place(name, "decoder", layer)
        forward = self.forwards.current
        again = 0 if forward is None else forward.entries.get(name, 1) - 1
        if again > 0:
            shared = sum(1 for other in self.places.values() if other.tower == place.tower)
            place = replace(place, layer=place.layer + again * shared)
        return place

    def call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AttentionCall:
        """The call that an attention function's arguments describe."""
        query, key, value, mask, keywords = _arguments(args, kwargs)
        spec = None if isinstance(mask, LazyMask) else spec_of(mask)
        if spec is not None and mask is not None:
            self.mask_bytes = max(self.mask_bytes, mask.numel() * mask.element_size())
        made = build_call(
            module, (query, key, value), mask, keywords, (self.place(module), self.forwards), spec
        )
        self.count(made.place.module)
        return made

    def batch_for(self, place: Place, width: int) -> Batch:
        """The sequences that the rows of a call belong to."""
        return batch_for(place, self.forwards, width)

    def count(self, name: str) -> None:
        """Note that the attention of a module was seen."""
        self.census[name] += 1
        forward = self.forwards.current
        if forward is not None:
            key = (name, forward.entries.get(name, 0))
            forward.calls_in_entry[key] = forward.calls_in_entry.get(key, 0) + 1

    def want(self, call: AttentionCall) -> Want:
        """The union of what every observer wants of a call."""
        want = Want(z=False)
        for observer in self._observers():
            want = want | observer.want(call)
        return want

    def tell(self, call: AttentionCall, attended: Attended) -> None:
        """Give the statistics to every observer, unless this is a recomputation outside any forward."""
        if self.forwards.current is None or self._quiet:
            return
        for observer in self._observers():
            observer.update(call, attended)

    @property
    def kernels(self) -> str | None:
        """The kernel backend that a session asked for."""
        return next((m.kernels for m in self.members if m.kernels is not None), None)


def hub_of(module: nn.Module) -> "Hub | None":
    """The hub that observes a module, if any."""
    return _hubs.get(id(module))


def _arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, dict[str, Any]]:
    names = ("query", "key", "value", "attention_mask")
    given = dict(zip(names, args, strict=False))
    rest = {key: value for key, value in kwargs.items() if key not in names}
    given.update({key: kwargs[key] for key in names if key in kwargs})
    return given["query"], given["key"], given["value"], given.get("attention_mask"), rest


@torch.compiler.disable  # type: ignore[untyped-decorator]
def fused_attention(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """The attention function that transformers calls in fused mode: z and statistics in one sweep."""
    hub = hub_of(module)
    if hub is None:
        raise UnsupportedAttentionError(
            f"{type(module).__name__} is set to probe's attention, but nothing observes or edits its model; "
            "use probe.observe(model) or probe.edit(model, ...), or set another attention implementation"
        )
    call = hub.call(module, args, kwargs)
    call, edits = hub.edit(call)
    if call.scores is None:
        raise UnsupportedAttentionError(
            f"{call.place.module}: an intervention took the scores out of the call"
        )
    want = replace(hub.want(call), z=True)
    hub.backends.add(backend_for(call.scores, want, hub.kernels))
    attended = attend(call.scores, call.layout, want, edits=edits, backend=hub.kernels)
    attended = hub.edit_attended(call, attended)
    hub.tell(call, attended)
    weights = None
    forward = hub.forwards.current
    if forward is not None and forward.wants_weights:
        n_query, n_key = call.size[1:]
        weights = pattern_block(call.scores, call.layout, slice(0, n_query), slice(0, n_key), edits=edits)
        weights = weights.to(call.scores.query.dtype)
    if attended.z is None:
        raise UnsupportedAttentionError(
            f"{call.place.module}: the sweep returned no z; an intervention removed it"
        )
    return attended.z.transpose(1, 2).contiguous(), weights


@torch.compiler.disable  # type: ignore[untyped-decorator]
def shadow_attention(
    native: AttentionFunction, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Around the model's own attention function: its output stands, statistics are computed beside it."""
    out = native(module, *args, **kwargs)
    hub = hub_of(module)
    if hub is None:
        return out
    with torch.no_grad():
        call = hub.call(module, args, kwargs)
        want = replace(hub.want(call), z=False)
        attended = Attended()
        if call.scores is not None and want != Want(z=False):
            hub.backends.add(backend_for(call.scores, want, hub.kernels))
            attended = attend(call.scores, call.layout, want, backend=hub.kernels)
        attended.z = out[0].detach().transpose(1, 2)
        hub.tell(call, attended)
    return out
