"""How many heads an attention module says it has, where that must be known before it has run."""

from torch import nn

from probe.seam.places import attention_modules

_NAMES = ("num_heads", "num_attention_heads", "n_heads", "n_head")


def declared_heads(model: nn.Module) -> dict[str, int]:
    """Query heads of every attention module that states their number as its own attribute, by module name.

    A configuration is not asked: it may speak of another tower than the module's.
    """
    stated = {name: _stated(module) for name, module in attention_modules(model).items()}
    return {name: number for name, number in stated.items() if number is not None}


def _stated(module: nn.Module) -> int | None:
    for name in _NAMES:
        number = getattr(module, name, None)
        if isinstance(number, int) and not isinstance(number, bool) and number > 0:
            return number
    return None
