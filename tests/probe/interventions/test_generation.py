"""Edits act in generate() as in one whole forward: sampled and with beams, two prompts of unlike length at once.

What an edit does in one forward is proven against dense attention or surgery elsewhere; here the logits of every step
of a generation are those of one forward, without a cache, over the text that came out.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from documents import batch_of, prompt_of
from small_models import llama
from subjects.catalogue import SUBJECTS
from torch import nn

import probe
from probe import interventions as of
from probe.analysis.edit import spans_of

NEW = 4
PROMPTS = [
    prompt_of([5, 6], [[11, 12, 13], [15, 16]], [21, 22]),
    prompt_of([5, 6, 7], [[11, 12, 13, 14], [15, 16], [17, 18]], [21, 22]),
]
BATCH = batch_of(PROMPTS)
OVER = [torch.randint(5, 50, (18,), generator=torch.Generator().manual_seed(7)) for _ in range(2)]
MODEL = llama()
HEADS = ["L1.H0", "L1.H3"]
HOW: dict[str, dict[str, Any]] = {
    "sampled": {"do_sample": True, "temperature": 0.8, "top_k": 20},
    "beams": {"do_sample": False, "num_beams": 3},
}


def _recorded(node: str) -> Any:
    texts = [torch.cat([OVER[0], OVER[1]])[: len(one)] for one in PROMPTS]
    return of.patch(of.recording(MODEL, texts, what=[node]), node, layers=[1], queries=(0, 9))


EDITS: dict[str, Callable[[], list[Any]]] = {
    "mean": lambda: [of.mean(HEADS, over=OVER)],
    "mean by token, z": lambda: [of.mean_by_token(HEADS, node="z", over=[torch.arange(55)])],
    "mean by token, stream": lambda: [of.mean_by_token(layers=[1], over=[torch.arange(55)])],
    "resample": lambda: [of.resample(HEADS, over=OVER)],
    "static": lambda: [of.static(HEADS, over=OVER, size=18)],
    "patch z": lambda: [_recorded("z")],
    "patch pattern": lambda: [_recorded("pattern")],
    "patch stream": lambda: [_recorded("resid")],
    "reinforce": lambda: [of.reinforce("doc:1", 3.0)],
    "soft gates": lambda: [of.reweight(by="query_norm", form="soft")],
    "top heads by what they write": lambda: [of.top_heads(2, "write_norm")],
    "skipped attention": lambda: [of.skip_module("attention", [1])],
    "skipped MLP at some tokens": lambda: [of.skip_module("mlp", [0], queries="doc:0")],
    "set-based": lambda: [of.set_based("doc")],
    "PINE": lambda: [of.bidirectional_segments("doc"), of.position_by_importance("doc")],
    "per-head temperature": lambda: [of.temperature([0.3, 3.0], HEADS)],
    "sparse rules": lambda: [of.pattern("block=4+dilated=2x3+stride=5", HEADS)],
    "several": lambda: [
        of.knockout("last", "doc:0"),
        of.scale(HEADS, 2.0),
        of.redistribute("doc:1", "doc:0"),
    ],
}


def steps(model: nn.Module, edits: list[Any], how: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The text of a generation, and the logits that its tokens were chosen by, ``[prompt, token, vocabulary]``."""
    torch.manual_seed(11)
    with probe.edit(model, edits, prompts=PROMPTS):
        made = model.generate(
            **BATCH,
            **HOW[how],
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            pad_token_id=0,
            eos_token_id=None,
            output_logits=True,
            return_dict_in_generate=True,
        )
    rows = made.beam_indices if how == "beams" else torch.arange(2)[:, None].expand(-1, NEW)
    chosen = [made.logits[step][rows[:, step]] for step in range(NEW)]
    return made.sequences, torch.stack(chosen, dim=1)


def whole(model: nn.Module, edits: list[Any], text: torch.Tensor) -> torch.Tensor:
    """The logits behind each generated token, from one forward over the whole text."""
    mask = torch.cat([BATCH["attention_mask"], torch.ones(2, NEW, dtype=torch.int64)], dim=1)
    given = {"position_ids": (mask.cumsum(-1) - 1).clamp_min(0), "attention_mask": mask, "use_cache": False}
    with probe.edit(model, edits, prompts=PROMPTS), torch.no_grad():
        return model(text, **given).logits[:, -NEW - 1 : -1]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", EDITS)
def test_every_step_is_a_row_of_one_whole_forward(name: str, how: str) -> None:
    """For every sequence that comes out; and without the edit the logits are others."""
    edits = EDITS[name]()
    text, found = steps(MODEL, edits, how)
    torch.testing.assert_close(found, whole(MODEL, edits, text), atol=1e-4, rtol=1e-4)
    plain = whole(MODEL, [of.scale(alpha=1.0)], text)
    assert float((found - plain).abs().max()) > 1e-3


@pytest.mark.parametrize("how", HOW)
def test_voids_are_found_at_every_step(how: str) -> None:
    """Layers chosen token by token, in a model deep enough to have some."""
    model, edits = llama(num_hidden_layers=5), [of.skip_layer(rule="voids", alpha=0.8)]
    text, found = steps(model, edits, how)
    torch.testing.assert_close(found, whole(model, edits, text), atol=1e-4, rtol=1e-4)
    assert float((found - whole(model, [of.scale(alpha=1.0)], text)).abs().max()) > 1e-3


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("edit", [of.expert_off, of.expert_on])
def test_experts_are_switched_at_every_step(edit: Callable[..., Any], how: str) -> None:
    """The same for a mixture of experts."""
    model = SUBJECTS["mixtral"].model()
    edits = [edit(["L0.E0", "L1.E1"])]
    text, found = steps(model, edits, how)
    torch.testing.assert_close(found, whole(model, edits, text), atol=1e-4, rtol=1e-4)
    assert float((found - whole(model, [of.scale(alpha=1.0)], text)).abs().max()) > 1e-4


@pytest.mark.parametrize("name", ["static", "reinforce", "soft gates", "set-based", "PINE", "several"])
def test_gradients_are_those_of_the_edited_forward(name: str) -> None:
    """The derivative along a random direction of the embeddings, against a difference of two edited forwards."""
    model, step = llama().double(), 1e-4  # norms of this model compute in float32
    weight = model.get_input_embeddings().weight
    along = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2), dtype=weight.dtype)
    with probe.edit(model, EDITS[name](), prompts=PROMPTS) as session:

        def loss(shift: float) -> torch.Tensor:
            session.announce([spans_of(prompt) for prompt in PROMPTS])
            with torch.no_grad():
                weight.add_(shift * along)
            return model(**BATCH).logits[BATCH["attention_mask"].bool()].square().mean()

        loss(0.0).backward()
        with torch.no_grad():
            expected = (loss(step) - loss(-2 * step)) / (2 * step)
    torch.testing.assert_close((weight.grad * along).sum(), expected, atol=1e-4, rtol=2e-3)
