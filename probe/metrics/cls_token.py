"""Which towers have a CLS token at the front, and whether the sequences of a call start with one."""

from typing import Any

from torch import nn

from probe.seam.call import AttentionCall
from probe.seam.places import places

# What vision models call the learned vector that they put before the patches.
_VECTORS = {"cls_token", "class_token", "class_embedding", "cls_embedding"}


def vision_has_cls(model: nn.Module) -> bool:
    """Whether a vision tower of this model puts a learned token before its patches."""
    if not any(place.tower == "vision" for place in places(model).values()):
        return False
    return any(name.rpartition(".")[2] in _VECTORS for name, _ in model.named_parameters())


def no_cls(call: AttentionCall, vision: bool) -> str | None:
    """Why the sequences of a call have no CLS token; None where each starts with one.

    `vision`: what `vision_has_cls` said of the model.
    """
    if call.causal or call.place.tower not in ("encoder", "vision"):
        return "a CLS token reads the whole sequence, and only encoders have one"
    if call.place.tower == "vision":
        return None if vision else "the vision tower puts no learned token before its patches"
    spans: tuple[dict[str, Any], ...] = call.batch.spans
    if not spans:
        return (
            "the spans of these sequences are not known here (see announce), so nobody knows their CLS token"
        )
    if not all("bos" in one and bool(one["bos"].any()) for one in spans):
        return "the sequences do not start with a CLS token"
    return None
