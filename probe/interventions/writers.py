"""Which modules of a block write into the residual stream, found by silencing them, never by their names.

A choice is right where a block whose attention and MLP are silenced returns what it was given: then what each of them
writes is all that it adds. Blocks where no choice does that (a norm behind the sum, a bias or another writer behind the
module) are refused.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probe.errors import InterventionError
from probe.interventions.redundancy import Blocks, Cosines, Inputs, run, watched
from probe.seam.call import Place
from probe.seam.hub import hub_of
from probe.seam.mlp import mlp_candidates
from probe.seam.places import places
from probe.seam.points import first_tensor, hidden_input
from probe.seam.recorded import Recorded

_LENGTH = 8  # tokens of the forward in which blocks are tried


@dataclass(frozen=True)
class Writers:
    """The modules that write within one block, in order: its attention by place, then its MLP."""

    block: Recorded
    place: Place
    attention: tuple[tuple[Place, nn.Module], ...]
    mlp: tuple[nn.Module, ...]

    def chosen(self, kind: str, towers: Iterable[str]) -> tuple[list[nn.Module], list[nn.Module]]:
        """The modules of a kind, and those that write after them."""
        if kind == "mlp":
            return list(self.mlp), []
        wanted = set(towers)
        mine = [at for at, (place, _) in enumerate(self.attention) if place.tower in wanted]
        after = [module for at, (_, module) in enumerate(self.attention) if mine and at > mine[-1]]
        return [self.attention[at][1] for at in mine], [*after, *self.mlp]


@dataclass
class Kept:
    """What a block was called with, and what it returned."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    before: Tensor
    after: Tensor


def find_writers(model: nn.Module, found: Blocks, name: str, *, alone: bool = True) -> list[Writers]:
    """The writers of every chosen block; `alone` as in `run`.

    Raises:
        InterventionError: the model needs inputs that nobody can make up, or silencing leaves a block changed.
    """
    try:
        return _tried(model, found, name, alone)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise InterventionError(
            f"{name} was asked; its modules were tried on made-up inputs, and {type(model).__name__} failed on them "
            f"({error}): use skip_layer, or zero for heads"
        ) from error


def _tried(model: nn.Module, found: Blocks, name: str, alone: bool) -> list[Writers]:
    attention = places(model)
    modules = dict(model.named_modules())
    options = mlp_candidates([block for block, _ in found.chosen], set(attention))
    kept: dict[str, Kept] = {}
    inputs = [made_up_inputs(model, name)]
    run(model, inputs, lambda: [_keep(block, kept) for block, _ in found.chosen], name, alone=alone)
    writers = []
    for block, place in found.chosen:
        if block.name not in kept:
            raise InterventionError(
                f"{name} was asked; block {block.name!r} did not run on {_LENGTH} made-up tokens, so its modules "
                "cannot be told apart: name tower=decoder, or other layers"
            )
        inner = [(attention[key], modules[key]) for key in attention if key.startswith(f"{block.name}.")]
        inner.sort(key=lambda entry: entry[0].tower == "cross")
        chains = [_chain(modules, block.name, where.module) for where, _ in inner]
        options_here = (inner, chains, _mlps(options[block.name]))
        writers.append(_search(block, place, options_here, kept[block.name], name))
    return writers


@contextmanager
def silenced(modules: Iterable[nn.Module], like: Tensor) -> Iterator[None]:
    """While open, what these modules return in place of hidden states like `like` is zero."""

    def hook(_module: object, _args: object, output: Any) -> Any:
        return replace_hidden(output, like.numel(), torch.zeros_like)

    with watched([module.register_forward_hook(hook) for module in modules]):
        yield


def replace_hidden(output: Any, size: int | None, change: Callable[[Tensor], Tensor]) -> Any:
    """A module's output with its first floating tensor (of `size` elements) changed; None where it has none."""
    if isinstance(output, Tensor):
        return change(output) if size in (None, output.numel()) else None
    if isinstance(output, tuple | list):
        for index, one in enumerate(output):
            if isinstance(one, Tensor) and one.is_floating_point() and size in (None, one.numel()):
                return type(output)(change(one) if i == index else other for i, other in enumerate(output))
    return None


def module_distances(
    model: nn.Module,
    writers: Sequence[Writers],
    kind: str,
    towers: Iterable[str],
    inputs: Inputs,
    *,
    alone: bool = True,
) -> dict[int, float]:
    """1 - mean cos(x, x + what the module writes) over the tokens of `inputs`, per layer; `alone` as in `run`.

    x is the residual stream just before the module's sum: the block computed with this and every later writer silent.
    """
    cosines = Cosines()
    busy = False
    towers = set(towers)

    def hook(one: Writers) -> Any:
        mine, later = one.chosen(kind, towers)

        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            nonlocal busy
            before = hidden_input(args, kwargs)
            if busy or before is None:
                return
            busy = True
            try:
                kept = Kept(args, kwargs, before, before)
                cosines.add(
                    one.place.layer, _rerun(one.block, [*mine, *later], kept), _rerun(one.block, later, kept)
                )
            finally:
                busy = False

        return one.block.module.register_forward_hook(look, with_kwargs=True)

    run(model, inputs, lambda: [hook(one) for one in writers], kind, alone=alone)
    return cosines.distance


def _rerun(block: Recorded, silent: Iterable[nn.Module], kept: Kept) -> Tensor:
    with silenced(silent, kept.before), torch.no_grad(), _anew(block.module):
        found = first_tensor(block.module(*kept.args, **kept.kwargs), block.index)
    return kept.before if found is None else found


def _anew(block: nn.Module) -> AbstractContextManager[None]:
    """Open around a block that runs again: within a forward that a session follows, its layers keep their numbers."""
    hub = hub_of(block)
    return nullcontext() if hub is None or hub.forwards.current is None else hub.forwards.again()


def _search(
    block: Recorded,
    place: Place,
    options: tuple[Any, Any, list[tuple[nn.Module, ...]]],
    kept: Kept,
    name: str,
) -> Writers:
    inner, chains, mlps = options
    depth = min((len(chain) for chain in chains), default=1)
    least = float("inf")
    for level in range(depth):
        attention = tuple((where, chain[level]) for (where, _), chain in zip(inner, chains, strict=True))
        for mlp in mlps:
            found = _rerun(block, [*(module for _, module in attention), *mlp], kept)
            if found.shape == kept.before.shape:
                left = float((found - kept.before).abs().max() / kept.before.abs().max().clamp_min(1e-30))
                least = min(least, left)
                if left <= 1e-6:
                    return Writers(block, place, attention, mlp)
    raise InterventionError(
        f"{name} was asked; with its attention and its MLP silent, block {block.name!r} still changes the residual "
        f"stream (by {least:.2g} of its size at least): a norm, a bias or another writer stands behind them, so that "
        "neither can be skipped alone: use skip_layer, or zero for heads"
    )


def _chain(modules: Mapping[str, nn.Module], block: str, name: str) -> list[nn.Module]:
    """An attention module, and the modules around it up to the block."""
    chain = []
    while name and name != block:
        chain.append(modules[name])
        name = name.rpartition(".")[0]
    return chain


def _mlps(children: Mapping[str, nn.Module]) -> list[tuple[nn.Module, ...]]:
    """What may be the MLP: a child, a child of a child (where a child adds the residual itself), or all of them."""
    single = list(children.values())
    inner = [
        module for child in single for module in child.children() if any(True for _ in module.parameters())
    ]
    return [*((one,) for one in single), *((one,) for one in inner), tuple(single)]


def _keep(block: Recorded, kept: dict[str, Kept]) -> Any:
    def hook(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        before, after = hidden_input(args, kwargs), first_tensor(output, block.index)
        if before is not None and after is not None:
            kept[block.name] = Kept(args, kwargs, before, after)

    return block.module.register_forward_hook(hook, with_kwargs=True)


def made_up_inputs(model: nn.Module, name: str) -> dict[str, Any]:
    """A short made-up input: token ids, or an image."""
    device = next(model.parameters()).device
    config: Any = model.config
    wants = getattr(model, "main_input_name", "")
    if wants == "input_ids":
        words = int(config.get_text_config().vocab_size)
        ids = torch.arange(words // 2, words // 2 + _LENGTH, device=device)[None] % words
        beside = {"decoder_input_ids": ids} if getattr(config, "is_encoder_decoder", False) else {}
        return {"input_ids": ids, **beside}
    size = getattr(config, "image_size", None)
    if wants == "pixel_values" and isinstance(size, int):
        shape = (1, int(getattr(config, "num_channels", 3)), size, size)
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return {"pixel_values": drawn.to(device, next(model.parameters()).dtype)}
    raise InterventionError(
        f"{name} was asked; {type(model).__name__} needs inputs that cannot be made up, so its modules cannot be told "
        "apart: use skip_layer, or zero for heads"
    )
