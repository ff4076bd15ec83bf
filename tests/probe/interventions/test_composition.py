"""What several interventions do together: kinds in their own order, one kind in the order of the list."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from edited.cases import BY_NAME
from edited.dense import Dense, Part, densely
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import gpt2, llama, mistral, t5
from subjects.measure import Tally
from torch import nn

import probe
from probe import interventions as of
from probe.seam.session import Session

HEADS = (0, 2)
NAMES = [f"L1.H{head}" for head in HEADS]
IDS = torch.randint(5, 50, (2, 11), generator=torch.Generator().manual_seed(5))
MASK = torch.ones_like(IDS)
MASK[0, :3] = 0
REAL = MASK.bool()
MODEL = llama()


@dataclass(frozen=True)
class Kind:
    """An edit, and what it does to dense attention; `stage` 0 edits scores, 1 probabilities, 2 z."""

    stage: int
    make: Callable[[], Any]
    formula: Callable[[Dense], Dense]


def _case(stage: int, name: str) -> Kind:
    case = BY_NAME[name]
    return Kind(stage, lambda: case.make(NAMES, {}), case.formula or (lambda one: one))


def _all_rows(one: Dense) -> Dense:
    raised = one.s + 0.7 * one.s.abs()
    return one.with_scores(torch.where(one.keys_in(1, 4) & one.s.isfinite(), raised, one.s))


def _uniform(one: Dense) -> Dense:
    """Every key that is still seen counts alike: keys that an edit before has hidden stay hidden."""
    return one.with_scores(torch.zeros_like(one.s).masked_fill(one.s == -torch.inf, -torch.inf))


POOL = [
    _case(0, "knockout"),
    _case(0, "pattern topk"),
    Kind(0, lambda: of.boost((1, 4), 0.7, NAMES, queries="all"), _all_rows),
    Kind(0, lambda: of.uniform_past(NAMES), _uniform),
    _case(1, "drop"),
    _case(1, "redistribute"),
    Kind(1, lambda: of.to_identity(0.3, NAMES), BY_NAME["to_identity"].formula),
    _case(2, "scale"),
    Kind(
        2,
        lambda: of.scale(NAMES, 2.0, queries=(0, 6)),
        lambda one: one.with_z(torch.where(one.i < 6, 2.0 * one.z, one.z)),
    ),
]


def logits(model: nn.Module, edits: list[Any], **more: Any) -> torch.Tensor:
    """Logits of the padded batch under edits."""
    with Session(model, [], edits), torch.no_grad():
        return model(IDS, attention_mask=MASK, **more).logits


@given(chosen=st.lists(st.integers(0, len(POOL) - 1), min_size=2, max_size=4, unique=True))
@settings(max_examples=25, deadline=None)
def test_a_list_is_scores_then_probabilities_then_z_each_in_its_order(chosen: list[int]) -> None:
    """Whatever the list, logits and statistics are those of dense attention edited in that order."""
    kinds = [POOL[number] for number in chosen]

    def formula(one: Dense) -> Dense:
        for kind in sorted(kinds, key=lambda kind: kind.stage):
            one = kind.formula(one)
        return one

    ours, theirs = Tally(), Tally()
    with Session(MODEL, [ours], [kind.make() for kind in kinds]), torch.no_grad():
        found = MODEL(IDS, attention_mask=MASK).logits
    with densely(MODEL, formula, [Part("decoder", 1, HEADS)], [theirs]), torch.no_grad():
        expected = MODEL(IDS, attention_mask=MASK).logits
    torch.testing.assert_close(found[REAL], expected[REAL], atol=1e-4, rtol=1e-4)
    for mine, truth in zip(ours.rows, theirs.rows, strict=True):
        real = mine.query_real[:, None].expand_as(mine.values["entropy"])
        torch.testing.assert_close(
            mine.values["entropy"][real], truth.values["entropy"][real], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2), (4, 6)])
def test_order_within_a_kind_matters(one: int, other: int) -> None:
    """The law above can fail: these two give other logits the other way round."""
    pair = [POOL[one].make(), POOL[other].make()]
    gap = logits(MODEL, pair) - logits(MODEL, pair[::-1])
    assert float(gap[REAL].abs().max()) > 1e-3


@pytest.mark.parametrize(("one", "other"), [(0, 4), (1, 8), (5, 7)])
def test_order_between_kinds_does_not_matter(one: int, other: int) -> None:
    """An edit of scores comes before one of probabilities, and that before one of z, wherever they stand."""
    pair = [POOL[one].make(), POOL[other].make()]
    assert torch.equal(logits(MODEL, pair), logits(MODEL, pair[::-1]))


def without_columns(model: nn.Module, heads: list[tuple[str, int]]) -> nn.Module:
    """The model with the columns of these output projections that read a head set to zero."""
    for name, head in heads:
        projection = model.get_submodule(name)
        read = slice(8 * head, 8 * head + 8)
        with torch.no_grad():
            if type(projection).__name__ == "Conv1D":
                projection.weight[read] = 0
            else:
                projection.weight[:, read] = 0
    return model


SURGERY = {
    llama: ("model.layers.{}.self_attn.o_proj", {}),
    mistral: ("model.layers.{}.self_attn.o_proj", {}),
    gpt2: ("transformer.h.{}.attn.c_proj", {}),
    t5: ("decoder.block.{}.layer.0.SelfAttention.o", {"decoder_input_ids": IDS[:, :5].flip(1)}),
}


@pytest.mark.parametrize("make_model", SURGERY)
def test_zero_is_a_model_without_the_columns_of_its_output_projection(make_model: Callable[[], Any]) -> None:
    """Zeroing z of heads is zeroing what W_O reads of them, with a left-padded batch of two."""
    name, more = SURGERY[make_model]
    cut = without_columns(make_model(), [(name.format(0), 1), (name.format(1), 2), (name.format(1), 3)])
    one = of.zero(["L0.H1", "L1.H2", "L1.H3"])
    with torch.no_grad():
        expected = cut(IDS, attention_mask=MASK, **more).logits
    found = logits(make_model(), [one], **more)
    real = torch.ones_like(found[..., 0], dtype=torch.bool) if more else REAL
    torch.testing.assert_close(found[real], expected[real], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "how",
    [{"do_sample": False}, {"do_sample": True, "top_k": 5}, {"num_beams": 3, "do_sample": False}],
    ids=["greedy", "sampled", "beams"],
)
def test_zero_writes_what_the_model_without_the_columns_writes(how: dict[str, Any]) -> None:
    """The same tokens, greedy, sampled with one seed, and with beams, two prompts of unlike length at once."""
    name, _ = SURGERY[llama]
    settings_ = {"attention_mask": MASK, "max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None, **how}
    texts = []
    for model, edits in (
        (MODEL, [of.zero(["L0.H1"])]),
        (without_columns(llama(), [(name.format(0), 1)]), []),
    ):
        torch.manual_seed(3)
        if not edits:
            texts.append(model.generate(IDS, **settings_))
            continue
        with probe.edit(model, edits):
            texts.append(model.generate(IDS, **settings_))
    assert torch.equal(*texts)
