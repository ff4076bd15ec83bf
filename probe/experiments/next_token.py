"""What a model says next after a prompt: the probabilities of one position."""

import inspect

import torch
from jaxtyping import Float
from torch import Tensor

from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.readouts.evaluating import evaluating


def next_probabilities(loaded: LoadedModel, prompt: Prompt) -> Float[Tensor, "vocab"]:
    """Probability of every token after a prompt, float64 on the CPU; logits of the last position alone are made.

    Interventions of an outer block act.
    """
    model = loaded.model
    accepts = inspect.signature(model.forward).parameters
    frugal = {k: v for k, v in {"logits_to_keep": 1, "use_cache": False}.items() if k in accepts}
    ids = torch.tensor([prompt.tokens], device=loaded.device)
    with evaluating(model), torch.no_grad():
        logits: Tensor = model(input_ids=ids, **frugal).logits[0, -1]
    return logits.detach().to("cpu", torch.float64).softmax(-1)
