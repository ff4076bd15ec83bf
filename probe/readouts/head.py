"""What a model does after its last hidden states, on any rows of them: output embedding, softcap, scale, bias."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers.utils import ModelOutput


class Head:
    """The model's own forward with its body replaced by hidden states that are there already.

    So whatever the model does to its logits (softcapping, scaling, a bias) is done by its own code. Hooks of the body
    and of the model do not run.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.form: type[ModelOutput] = ModelOutput  # what the body returns
        self.name = str(getattr(model, "base_model_prefix", ""))
        self.body = model._modules.get(self.name)

    @property
    def found(self) -> bool:
        """Whether the model consists of a body and a head on it."""
        get = getattr(self.model, "get_output_embeddings", None)
        return self.body is not None and get is not None and get() is not None

    def __call__(self, hidden: Float[Tensor, "batch column d_model"]) -> Float[Tensor, "batch column vocab"]:
        """The logits of some rows, as the model itself computes them."""
        tokens = hidden.new_zeros(hidden.shape[:2]).long()
        self.model._modules[self.name] = _Given(self.body, self.form(last_hidden_state=hidden))
        try:
            logits: Tensor = self.model.forward(input_ids=tokens, use_cache=False).logits
        finally:
            self.model._modules[self.name] = self.body
        return logits


class _Given(nn.Module):
    """Stands where a body stood, and answers with what was given; else it looks like that body."""

    def __init__(self, body: Any, output: ModelOutput) -> None:
        super().__init__()
        self.__dict__["stood"] = body
        self.__dict__["output"] = output

    def forward(self, *args: Any, **kwargs: Any) -> ModelOutput:
        """The given output, whatever was asked."""
        return self.__dict__["output"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["stood"], name)
