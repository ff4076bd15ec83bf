"""A run kept for other runs to take values from: z, residual streams, and queries and keys for patterns."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from jaxtyping import Float
from torch import Tensor, nn

from probe.errors import InterventionError, UnknownNameError, UsageError
from probe.interventions.base import Lives, Prepares
from probe.interventions.feeds import Feed, feeds_of, run_feeds
from probe.interventions.patterns_kept import KeepPatterns, KeptPattern
from probe.interventions.rows_kept import KeepRows, KeptRows, Layer
from probe.interventions.target import Target
from probe.models import LoadedModel, as_loaded
from probe.seam.call import Place
from probe.seam.places import places
from probe.seam.session import Session
from probe.terms import HeadId

Node = Literal["z", "resid", "resid_post", "pattern"]
WHAT = get_args(Node)
_ALL: tuple[Node, ...] = ("z", "resid", "pattern")


@dataclass(frozen=True)
class Recording:
    """One run of one model, position by position over real tokens; it never holds a pattern, only what makes it."""

    name: str
    what: tuple[str, ...]
    target: Target  # the layers and heads that were recorded
    lengths: tuple[int, ...]  # tokens of each prompt; 0 where nobody knows (pixels, embeddings)
    rows: Mapping[str, Mapping[Layer, KeptRows]]  # by node
    patterns: Mapping[Layer, Sequence[KeptPattern]]
    _model: "weakref.ref[nn.Module]"

    @property
    def n_prompts(self) -> int:
        """Number of recorded sequences."""
        return len(self.lengths)

    def values(
        self, node: str, layer: int, tower: str = "decoder"
    ) -> Float[Tensor, "prompt head query_pos width"]:
        """What was recorded of a layer: z per head, or a residual stream as one head; 0 beyond a prompt's length.

        Raises:
            UnknownNameError: this node, or this layer of this tower, was not recorded.
        """
        if node not in self.rows:
            raise UnknownNameError.of("recorded node", node, self.rows)
        for kept in self.rows[node].values():
            if (kept.place.tower, kept.place.layer) == (tower, layer):
                return kept.values
        known = [f"{kept.place.tower} {kept.place.layer}" for kept in self.rows[node].values()]
        raise UnknownNameError.of("recorded layer", f"{tower} {layer}", known)

    def require_model(self, model: nn.Module, what: str) -> None:
        """Raise `InterventionError` unless this is the very model that was recorded."""
        own = self._model()
        if own is not model:
            gone = "a model that is gone" if own is None else f"another {type(own).__name__}"
            raise InterventionError(
                f"{what} was asked of {type(model).__name__}; its run was recorded on {gone}: record this model"
            )

    def require_node(self, node: str, what: str) -> None:
        """Raise `InterventionError` unless this node was recorded."""
        if node not in self.what:
            raise InterventionError(
                f"{what} was asked; the run was recorded with what={list(self.what)}: record it with {node!r} too"
            )

    def require_covers(self, target: Target, found: Iterable[Place], what: str, *, heads: bool) -> None:
        """Raise `InterventionError` where a target means layers, or heads, that were left out of the recording."""
        for place in found:
            if not target.covers(place):
                continue
            if not self.target.covers(place):
                raise InterventionError(
                    f"{what} was asked; layer {place.layer} of the {place.tower} was left out of the recording: name "
                    "the layers and heads that it holds, or record all"
                )
            own = self.target.heads
            named = [h for h in target.heads or () if (h.tower, h.layer) == (place.tower, place.layer)]
            if heads and own is not None and (not named or not set(named) <= set(own)):
                raise InterventionError(
                    f"{what} was asked; the recording holds only {', '.join(map(str, own))}: name heads of these, or "
                    "record all"
                )


def recording(
    model: object,
    prompts: Sequence[object],
    what: Sequence[Node] = _ALL,
    layers: Iterable[int] | None = None,
    heads: Iterable[str | HeadId] | None = None,
    interventions: Sequence[Any] = (),
) -> Recording:
    """Run a model once and keep what `patch` may put into another run: O(tokens) numbers per layer.

    Nodes: ``z`` per head; ``resid`` and ``resid_post``, the residual stream entering and leaving each block;
    ``pattern``: queries, keys and the mask, from which a pattern is made anew, block by block. (A position bias that a
    model itself holds as a query-by-key tensor is kept as that tensor.)

    Args:
        model: A Hugging Face model, ``(model, tokenizer)``, a `LoadedModel`, or a name.
        prompts: Texts, Prompts, int tensors of tokens, or mappings of model inputs; the k-th sequence of an edited run
            takes the values of the k-th recorded one.
        what: The nodes to keep.
        layers: Keep these layers only.
        heads: Keep z and patterns of these heads only.
        interventions: Edits under which to run, for instance other patches (path patching in two passes).

    Raises:
        UsageError: a node, layer, head or prompt that cannot be one, or the model is already observed or edited.
        InterventionError: patterns of a model that bypasses transformers' attention registry, or of padded inputs.
    """
    unknown = [node for node in what if node not in WHAT]
    if isinstance(what, str) or not what or unknown:
        raise UsageError(f"recording with what={what!r} was asked; give a list of {', '.join(WHAT)}")
    loaded = as_loaded(model)
    target = Target.of(heads, {"layers": layers})
    target.require(places(loaded.model), {})
    alone = "pattern" in what
    feeds = feeds_of(prompts, loaded, "recording: prompts", width=1 if alone else 8)
    lengths = tuple(length for feed in feeds for length in feed.lengths)
    if alone:
        _require_single(feeds)
    edits = _ready(interventions, loaded)
    if alone:
        _require_patterns_tell(edits)
    rows = {node: KeepRows(_of_node(target, node), node) for node in what if node != "pattern"}
    patterns = KeepPatterns(target)
    watching = (*rows.values(), *((patterns,) if alone else ()))
    # Fused, as edits are: a run patched into itself then has the very numbers that it was recorded with.
    run_feeds(loaded, feeds, Session(loaded.model, watching, edits, mode="fused"), "recording")
    return Recording(
        loaded.name,
        tuple(what),
        target,
        lengths,
        {node: keep.kept() for node, keep in rows.items()},
        patterns.layers,
        cast("weakref.ref[nn.Module]", weakref.ref(loaded.model)),
    )


def _of_node(target: Target, node: str) -> Target:
    """A stream has no heads: it is kept in every layer that is named, or that has a named head."""
    if node == "z" or target.heads is None:
        return target
    return Target(layers=target.layers or tuple(sorted({head.layer for head in target.heads})))


def _ready(interventions: Sequence[Any], loaded: LoadedModel) -> tuple[Any, ...]:
    found = places(loaded.model)
    for one in interventions:
        target = getattr(one, "target", None)
        if hasattr(one, "require"):
            one.require(found, {})
        elif isinstance(target, Target):
            target.require(found, {})
    return tuple(one.prepare(loaded, None) if isinstance(one, Prepares) else one for one in interventions)


def _require_patterns_tell(edits: Sequence[Any]) -> None:
    """Raise `UsageError` where blocks are edited inside the sweep: queries and keys do not tell such a pattern."""
    for one in edits:
        if hasattr(one.live() if isinstance(one, Lives) else one, "edits"):
            raise UsageError(
                f"recording of patterns under {one.name} was asked; it edits patterns themselves, which queries and "
                "keys do not tell: leave 'pattern' out of what"
            )


def _require_single(feeds: Sequence[Feed]) -> None:
    for feed in feeds:
        if len(feed.lengths) > 1:
            raise UsageError(
                f"recording of patterns was asked; model inputs of {len(feed.lengths)} sequences were given: give "
                "each sequence's inputs by themselves"
            )
