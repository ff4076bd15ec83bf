"""The one colour scale: cividis, equally spaced to the eye and readable with colour-blind vision."""

import math

# Nuñez, Anderton & Renslow 2018, sampled at ten equal steps.
_STOPS = (
    (0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 93, 109), (112, 113, 115),
    (138, 134, 120), (165, 156, 116), (195, 179, 105), (225, 204, 85), (254, 232, 56),
)  # fmt: skip
UNDEFINED = (224, 224, 224)


def rgb(fraction: float) -> tuple[int, int, int]:
    """The colour at `fraction` of the scale, 0 dark to 1 bright; an undefined value is light grey.

    >>> rgb(0.0), rgb(1.0), rgb(float("nan"))
    ((0, 34, 78), (254, 232, 56), (224, 224, 224))
    """
    if math.isnan(fraction):
        return UNDEFINED
    place = min(max(fraction, 0.0), 1.0) * (len(_STOPS) - 1)
    low = min(int(place), len(_STOPS) - 2)
    part = place - low
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(_STOPS[low], _STOPS[low + 1], strict=True))
    return red, green, blue


def stops() -> list[tuple[float, str]]:
    """The scale as (fraction, ``rgb(r,g,b)``) pairs, the form that plotly takes."""
    last = len(_STOPS) - 1
    return [(step / last, f"rgb{stop}".replace(" ", "")) for step, stop in enumerate(_STOPS)]


def fraction(value: float, low: float, high: float) -> float:
    """Where `value` lies between `low` and `high`, 0 to 1; undefined stays undefined, a flat range is 0.

    >>> fraction(3.0, 1.0, 5.0), fraction(2.0, 2.0, 2.0)
    (0.5, 0.0)
    """
    if math.isnan(value):
        return value
    return 0.0 if not high > low else (value - low) / (high - low)
