"""A row of blocks, one per layer: height tells the value, colour only repeats it."""

import math
from collections.abc import Sequence

from rich.text import Text

from probe.report.ramp import fraction, rgb

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = ".:-=+*#@"  # where the terminal's encoding has no blocks
UNDEFINED = "·"


def columns(n_layers: int, width: int) -> tuple[int, int]:
    """``(characters per layer, layers per character)`` for a strip of at most `width` characters.

    >>> columns(30, 60), columns(6, 60), columns(100, 60)
    ((2, 1), (3, 1), (1, 2))
    """
    width = max(width, 1)
    if n_layers > width:
        return 1, math.ceil(n_layers / width)
    return max(1, min(3, width // max(n_layers, 1))), 1


def strip(values: Sequence[float], scale: tuple[float, float], width: int, *, plain: bool = False) -> Text:
    """One strip on `scale` = (low, high); neighbours are averaged where there are more layers than characters."""
    wide, together = columns(len(values), width)
    marks = PLAIN if plain else BLOCKS
    text = Text()
    for start in range(0, len(values), together):
        value = mean(values[start : start + together])
        if math.isnan(value):
            text.append((" " if plain else UNDEFINED) * wide)
            continue
        part = fraction(value, *scale)
        red, green, blue = rgb(
            0.35 + 0.55 * part
        )  # the middle of the ramp shows on dark and on light terminals
        text.append(
            marks[min(int(part * len(marks)), len(marks) - 1)] * wide, style=f"rgb({red},{green},{blue})"
        )
    return text


def ruler(layers: Sequence[int], width: int) -> str:
    """Layer numbers above a strip: the first, every tenth of the width or so, and the last where it fits.

    >>> ruler(range(12), 36)
    '0           4           8        11'
    """
    wide, together = columns(len(layers), width)
    size = math.ceil(len(layers) / together) * wide
    step = max(1, math.ceil(10 / wide))
    line = [" "] * (size + len(str(layers[-1])) if layers else 0)
    for place in range(0, math.ceil(len(layers) / together), step):
        label = str(layers[place * together])
        line[place * wide : place * wide + len(label)] = label
    last = str(layers[-1]) if layers else ""
    start = (len(layers) - 1) // together * wide
    if all(mark == " " for mark in line[max(start - 1, 0) : start + len(last)]):
        line[start : start + len(last)] = last
    return "".join(line).rstrip()


def mean(values: Sequence[float]) -> float:
    """The mean of the defined values; undefined where there is none."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
