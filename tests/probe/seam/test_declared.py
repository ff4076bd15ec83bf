"""What modules say of their heads is what they have, so that heads are refused before anything runs."""

import pytest
import torch
from subjects.catalogue import SUBJECTS

import probe
from probe.errors import UnknownNameError
from probe.interventions import zero
from probe.seam.declared import declared_heads
from probe.seam.session import Session


class Seen:
    """Notes how many heads every call has."""

    def __init__(self):
        self.heads = {}

    def want(self, call):
        return probe.metrics.make("entropy").want(call)

    def update(self, call, attended):
        self.heads[call.place.module] = call.n_heads


def one_of_each_kind():
    return list({subject.kind: name for name, subject in SUBJECTS.items() if not subject.bypass}.values())


@pytest.mark.parametrize("name", one_of_each_kind())
def test_stated_is_seen(name):
    """Where a module states a number of heads, its calls have as many."""
    model, seen = SUBJECTS[name].model(), Seen()
    with torch.no_grad(), Session(model, [seen]):
        model(**SUBJECTS[name].inputs(model))
    stated = declared_heads(model)
    assert seen.heads
    assert {module: stated[module] for module in seen.heads.keys() & stated.keys()} == {
        module: heads for module, heads in seen.heads.items() if module in stated
    }


def test_a_head_that_is_not_there_is_refused_before_the_first_forward():
    """A model that needs pixels is not run to find out."""
    name = next(name for name, one in SUBJECTS.items() if one.kind == "vision" and not one.bypass)
    model = SUBJECTS[name].model()
    ran = []
    model.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(UnknownNameError, match="H99"), probe.edit(model, [zero(heads=["vision.L0.H99"])]):
        pass
    assert not ran
