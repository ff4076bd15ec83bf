"""Everything of a model and of transformers' registries that an observation must leave as it was."""

from torch import nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

OURS = ("probe", "probe_additive")  # registered once, under names that no model uses by itself
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def state(model: nn.Module) -> dict[str, object]:
    """A comparable snapshot: implementations per sub-module, hooks, own attributes, registries."""
    registries = {
        "attention": {**AttentionInterface._global_mapping},
        "attention_local": {**ALL_ATTENTION_FUNCTIONS._local_mapping},
        "mask": {**AttentionMaskInterface._global_mapping},
        "mask_local": {**ALL_MASK_ATTENTION_FUNCTIONS._local_mapping},
    }
    found: dict[str, object] = {
        name: {key: id(value) for key, value in table.items() if key not in OURS}
        for name, table in registries.items()
    }
    for name, module in model.named_modules():
        config = getattr(module, "config", None)
        found[f"{name}.implementation"] = getattr(config, "_attn_implementation", None)
        found[f"{name}.hooks"] = tuple(tuple(getattr(module, kind)) for kind in HOOKS)
        found[f"{name}.attributes"] = tuple(sorted(module.__dict__))
    return found
