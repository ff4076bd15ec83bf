"""How much ``keep="qk"`` will write, said before it is written and refused where the disk is too small."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from probe.analysis.forward import Runner
from probe.analysis.inputs import Inputs, Item
from probe.analysis.shapes_seen import LayerShape, ShapesSeen
from probe.errors import BudgetError
from probe.seam.session import Session

_FEW = 16  # tokens that show every layer's shape


def seen_shapes(runner: Runner, item: Item) -> list[LayerShape]:
    """The shape of every attention layer that a short forward of `item` reaches."""
    seen = ShapesSeen()
    short = item if item.prompt is None else Item(item.prompt.truncate(_FEW))
    with Session(runner.model, [seen], mode="fused"):
        Runner(runner.loaded).run(runner.tensors([short]))
    return list(seen.layers.values())


def kept_bytes(shapes: Sequence[LayerShape], inputs: Inputs) -> int:
    """Bytes of the queries, keys and normalisers of all inputs."""
    return sum(shape.kept_bytes(item.n_tokens) for shape in shapes for item in inputs.items)


def announce_kept(runner: Runner, inputs: Inputs, folder: Path) -> str:
    """The line that says how much will be kept; raises `BudgetError` where the disk has less room."""
    size = kept_bytes(seen_shapes(runner, inputs.items[0]), inputs)
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    if size > free:
        raise BudgetError(
            f"keep='qk' was asked; it would write {size / 1e6:,.0f} MB to {folder}, where {free / 1e6:,.0f} MB are "
            "free: keep='map', fewer tokens, or another folder"
        )
    return f"keeping {size / 1e6:,.1f} MB of queries and keys"
