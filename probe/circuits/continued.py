"""States of prompts that go on with their right and with their wrong token."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.study import Study
from probe.errors import InputError
from probe.prompts import Prompt
from probe.prompts.pairs import Pair

States = Float[Tensor, "pair prompt token d_model"]  # clean and corrupt; right and wrong


def continued_states(case: Study) -> list[States]:
    """By layer, the stream that leaves it at the token that continues, in the order of the pairs.

    Raises:
        InputError: prompts that have no position left for one more token.
    """
    limit = case.loaded.max_positions
    longest = max(len(pair) for pair in case.pairs) + 1
    if limit is not None and longest > limit:
        raise InputError(
            f"prompts of {longest - 1} tokens were to be continued; {case.loaded.name} has positions for {limit}: "
            "shorten them"
        )
    parts: dict[int, list[Tensor]] = {}
    for batch in case.batches:
        own: dict[int, list[Tensor]] = {}
        for which in ("right", "wrong"):
            longer = Batch(batch.numbers, tuple(_continued(pair, which) for pair in batch.pairs))
            for side in ("clean", "corrupt"):
                trace = case.engine.record(longer, side, ["resid_post"])
                for layer in trace.layers("resid_post"):
                    own.setdefault(layer, []).append(
                        trace.value("resid_post", layer)[:, 0, -1].double().cpu()
                    )
        for layer, states in own.items():
            parts.setdefault(layer, []).append(
                torch.stack(states, 1).reshape(len(batch), 2, 2, -1).transpose(1, 2)
            )
    order = torch.argsort(torch.tensor([number for batch in case.batches for number in batch.numbers]))
    return [torch.cat(parts[layer])[order] for layer in sorted(parts)]


def _continued(pair: Pair, which: str) -> Pair:
    token = getattr(pair, which)[0]
    clean, corrupt = (Prompt.of_tokens((*one.tokens, token), id=one.id) for one in (pair.clean, pair.corrupt))
    return replace(pair, clean=clean, corrupt=corrupt, marks={})
