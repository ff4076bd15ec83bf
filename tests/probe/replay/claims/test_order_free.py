"""The suffix is the same for any order of segments with either method, and not without."""

from itertools import permutations

import numpy as np
from small_models import llama

from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.replay.claims.order_free import KINDS, LIMIT, SEGMENTS, TAIL, WIDTH, _by_kind, _order


def test_only_the_plain_model_tells_the_order() -> None:
    """Largest differences over all orders: rounding with both methods, much more without; nothing is lost or added."""
    ids = np.random.default_rng(0).integers(2, 40, (SEGMENTS + 1) * WIDTH + TAIL).tolist()
    model = LoadedModel(llama(max_position_embeddings=256), None, "small", ModelSource("given"))
    prompt = Prompt.of_tokens(ids)
    found = dict(zip(KINDS, _by_kind(model, prompt), strict=True))
    assert max(found["set_based"][0], found["PINE"][0]) < LIMIT < found["plain"][0]
    for order in permutations(range(SEGMENTS)):
        one = _order(prompt, order)
        assert sorted(one.tokens) == sorted(ids)
        assert one.tokens[:WIDTH] + one.tokens[-TAIL:] == tuple(ids[:WIDTH] + ids[-TAIL:])
