"""The same architecture before training: a second model, built from the first one's configuration."""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from probe.errors import ProbeError, UsageError
from probe.models.loaded import LoadedModel, ModelSource


def untrained(loaded: LoadedModel, seed: int = 0) -> LoadedModel:
    """A new model of the same configuration with weights as its architecture initialises them.

    Same class, dtypes, device, attention implementation and tokenizer; the model that is given is only read. Weights
    are drawn on the CPU, so that a seed gives the same ones on every device; torch's generators are left as they were.

    Raises:
        UsageError: the model cannot be built from its configuration; see `check_buildable`.
    """
    check_buildable(loaded)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = _build(loaded, torch.device("cpu"))
    widths = {name: one.dtype for name, one in loaded.model.named_parameters()}
    for name, parameter in made.named_parameters():
        if name in widths:
            parameter.data = parameter.data.to(widths[name])
    if hasattr(loaded.model, "generation_config"):
        made.generation_config = copy.deepcopy(loaded.model.generation_config)
    made = made.to(loaded.device).eval()
    source = ModelSource("re-initialised", dtype=loaded.source.dtype)
    return replace(loaded, model=made, name=f"{loaded.name} (untrained)", source=source)


def check_buildable(loaded: LoadedModel) -> None:
    """Refuse, without making any weights, a model that its configuration does not describe.

    Raises:
        UsageError: no configuration, weights that are quantised or spread over devices, a class that cannot be built,
            or parameters (an adapter's, say) that a model of this configuration does not have.
    """
    model = loaded.model
    own = dict(model.named_parameters())
    if getattr(model, "config", None) is None:
        raise _refused(loaded, f"a {type(model).__name__} has no configuration to build a second one from")
    if getattr(model.config, "quantization_config", None) or not all(
        one.is_floating_point() for one in own.values()
    ):
        raise _refused(loaded, "its weights are quantised, which no initialisation is")
    places = sorted({str(one.device) for one in own.values()})
    if len(places) > 1 or "meta" in places:
        raise _refused(loaded, f"its weights are spread over {', '.join(places)}")
    made = dict(_build(loaded, torch.device("meta")).named_parameters())
    strange = [name for name, one in own.items() if getattr(made.get(name), "shape", None) != one.shape]
    if strange:
        shown = ", ".join(strange[:3]) + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
        raise _refused(loaded, f"a model of its configuration has no {shown} of that shape")


def _build(loaded: LoadedModel, device: torch.device) -> nn.Module:
    build: Callable[[object], nn.Module] = type(loaded.model)
    try:
        with device:
            return build(copy.deepcopy(loaded.model.config))
    except ProbeError:
        raise
    except Exception as error:  # a model's own constructor may fail in any way
        text = " ".join(str(error).split())[:200]
        raise _refused(
            loaded, f"{type(loaded.model).__name__}(config) failed ({type(error).__name__}: {text})"
        ) from error


def _refused(loaded: LoadedModel, reason: str) -> UsageError:
    return UsageError(
        f"the untrained {loaded.name} was asked; it cannot be built from its configuration: {reason}. "
        "Leave baseline out, or give the Hugging Face model itself"
    )
