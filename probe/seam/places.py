"""Where attention lives in a model: which modules are attention, in which tower, at which layer.

Nothing here knows a model by name. Attention modules are those that the model declares as recordable (transformers'
``_can_record_outputs["attentions"]``) and those whose class says so; towers are told apart by module names and by what
a sub-model takes as input.
"""

import re
from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from probe.seam.call import Place

_ATTENTION_CLASS = re.compile(r"(attention|attn)", re.IGNORECASE)
_NOT_ATTENTION_CLASS = re.compile(
    r"(norm|output|intermediate|rotary|embedding|mask|indexer|bias)", re.IGNORECASE
)
_RECURRENT_CLASS = re.compile(r"(lightning|delta)", re.IGNORECASE)
_CROSS = ("encoder_attn", "crossattention", "cross_attn", "cross_attention", "encdecattention", "attn2")
_VISION = {"vision", "visual", "image", "vit", "pixel"}
_AUDIO = {"audio", "speech"}


def attention_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The innermost attention modules of a model, by module name."""
    recorded = tuple({cls for sub in submodels(model).values() for cls in _recorded(sub, "attentions")})
    found = {
        name: module
        for name, module in model.named_modules()
        if ((recorded and isinstance(module, recorded)) or _says_attention(module)) and not _recurs(module)
    }
    return {name: module for name, module in found.items() if not _inner(name, found)}


def _recurs(module: nn.Module) -> bool:
    """Linear attention that is a recurrence: it has no pattern over tokens, so there is nothing to see."""
    return bool(_RECURRENT_CLASS.search(type(module).__name__))


def _says_attention(module: nn.Module) -> bool:
    name = type(module).__name__
    return (
        bool(_ATTENTION_CLASS.search(name))
        and not _NOT_ATTENTION_CLASS.search(name)
        and any(True for _ in module.parameters())
        and not isinstance(module, PreTrainedModel)
    )


def _inner(name: str, found: dict[str, nn.Module]) -> bool:
    return any(other != name and other.startswith(f"{name}.") for other in found)


def _recorded(model: PreTrainedModel, what: str) -> Iterator[type[nn.Module]]:
    """Classes that a model declares under ``_can_record_outputs[what]`` and the cross-attention twin."""
    declared = getattr(model, "_can_record_outputs", None) or {}
    for key, entries in declared.items():
        if key != what and not (what == "attentions" and key == "cross_attentions"):
            continue
        for entry in entries if isinstance(entries, list | tuple) else (entries,):
            target = getattr(entry, "target_class", entry)
            if isinstance(target, type):
                yield target


def submodels(model: nn.Module) -> dict[str, PreTrainedModel]:
    """Every transformers model inside (the model itself under the empty name), outermost first."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PreTrainedModel)}


def places(model: nn.Module) -> dict[str, Place]:
    """Every attention module by name, with its tower and its layer within the tower."""
    owners = submodels(model)
    towers: dict[str, list[str]] = {}
    for name, module in attention_modules(model).items():
        towers.setdefault(_tower(name, module, owners), []).append(name)
    return {
        name: Place(name, tower, layer)
        for tower, names in towers.items()
        for name, layer in zip(names, _layers(names), strict=True)
    }


def _tower(name: str, module: nn.Module, owners: dict[str, PreTrainedModel]) -> str:
    path = name.lower()
    owner = (
        owners[max((o for o in owners if o == "" or name.startswith(f"{o}.")), key=len)] if owners else None
    )
    words = set(re.split(r"[._]", path))
    takes = getattr(owner, "main_input_name", "input_ids")
    encodes = "encoder" in words and "decoder" not in words
    if any(word in path.replace(".", "_") or word in path for word in _CROSS):
        return "cross"
    if takes == "pixel_values" or words & _VISION:
        return "vision"
    whole = owners.get("")
    if encodes and whole is not None and bool(getattr(whole.config, "is_encoder_decoder", False)):
        return "encoder"
    if words & _AUDIO or (takes in ("input_features", "input_values") and "decoder" not in words):
        return "audio"
    if encodes or getattr(module, "is_causal", True) is False:
        if "decoder" in words or _decodes(module, owner) or (not encodes and _generates(whole)):
            return "decoder"
        return "encoder"
    return "decoder"


def _decodes(module: nn.Module, owner: PreTrainedModel | None) -> bool:
    if getattr(module, "is_causal", None) is True:
        return True
    return bool(getattr(getattr(owner, "config", None), "is_decoder", False))


def _generates(whole: PreTrainedModel | None) -> bool:
    """Whether the whole model writes text: then its text tower is a decoder, even where a prefix sees both ways."""
    return whole is not None and whole.can_generate()


def _layers(names: list[str]) -> list[int]:
    """Layer numbers: the first number in the names that tells them all apart, else their order."""
    numbers = [tuple(int(part) for part in name.split(".") if part.isdigit()) for name in names]
    depth = min((len(path) for path in numbers), default=0)
    for place in range(depth):
        column = [path[place] for path in numbers]
        if len(set(column)) == len(column):
            return column
    return list(range(len(names)))
