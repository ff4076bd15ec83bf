"""The methods of this room by name; the code of each is loaded when it is asked."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from probe.errors import UnknownNameError


@dataclass(frozen=True)
class Method:
    """One method: where its function is (``module:function``), one sentence, and its paper."""

    where: str
    summary: str
    paper: str


METHODS: Mapping[str, Method] = {
    "activation_patching": Method(
        "probe.circuits.patching:activation_patching",
        "How much of the difference between two runs one value carries, by putting it into the other run",
        "Zhang & Nanda 2024 (arXiv:2309.16042)",
    ),
    "attribution_patching": Method(
        "probe.circuits.attribution:attribution_patching",
        "What activation patching would find, to first order: every node from two forwards and one backward",
        "Nanda 2023; Syed et al. 2024 (arXiv:2310.10348)",
    ),
    "integrated_gradients": Method(
        "probe.circuits.integrated:integrated_gradients",
        "What each value carries of the difference, by its mean gradient between the two prompts' embeddings",
        "Hanna et al. 2024 (arXiv:2403.17806)",
    ),
    "relp": Method(
        "probe.circuits.relevance:relp",
        "Attribution patching with relevance (LN, identity, half and attention rules) in the place of the gradient",
        "Jafari et al. 2025 (arXiv:2508.21258)",
    ),
    "all_for_one": Method(
        "probe.circuits.waiting:all_for_one",
        "Whether a task is solved although tokens wait, then only the last one looks back, in few layers",
        "Mamidanna et al. 2025 (arXiv:2509.09650)",
    ),
    "logit_attribution": Method(
        "probe.circuits.direct:logit_attribution",
        "What each head, MLP and the embedding add to the logit difference themselves, and from which source token",
        "Elhage et al. 2021 (A Mathematical Framework for Transformer Circuits)",
    ),
    "head_lens": Method(
        "probe.circuits.lens_of_heads:head_lens",
        "Which tokens each head's own write promotes and suppresses, and where the right answer stands among them",
        "nostalgebraist 2020 (the logit lens), per head",
    ),
    "path_patching": Method(
        "probe.circuits.path_effects:path_patching",
        "How much of the difference between two runs goes from a head to chosen receivers, all other heads frozen",
        "Wang et al. 2023 (arXiv:2211.00593); Merullo et al. 2024 (arXiv:2310.08744)",
    ),
    "attention_subset": Method(
        "probe.circuits.layer_sets:attention_subset",
        "The smallest set of attention layers that carries the answer to the last token, and what the others carry",
        "after Ben-Artzy & Schwartz 2024 (arXiv:2409.03621)",
    ),
    "double_dissociation": Method(
        "probe.circuits.dissociation:double_dissociation",
        "What the loss of each of two tasks' heads costs either task, against random heads",
        "after Disentangling Recall and Reasoning 2025",
    ),
    "head_roles": Method(
        "probe.circuits.role_report:head_roles",
        "Which heads are name movers, S-inhibition, induction, duplicate- or previous-token heads, by what they do",
        "Wang et al. 2023 (arXiv:2211.00593)",
    ),
    "commitment_layer": Method(
        "probe.circuits.commitment:commitment_layer",
        "From which layer on the last position's states of right and wrong continuations stay apart",
        "ours; lens after nostalgebraist 2020, continuations after Marín 2026 (arXiv:2603.13259)",
    ),
    "discover": Method(
        "probe.circuits.discovery:discover",
        "The fewest heads and MLPs that keep a task: faithfulness, completeness, minimality, beside random circuits",
        "Conmy et al. 2023 (arXiv:2304.14997); Hanna et al. 2024 (arXiv:2403.17806)",
    ),
    "successor_heads": Method(
        "probe.circuits.successors:successor_heads",
        "Whose OV circuit turns an item of an ordinal list into the one that comes next, from weights alone",
        "Gould et al. 2024 (arXiv:2312.09230)",
    ),
    "copying_heads": Method(
        "probe.circuits.copying_score:copying_heads",
        "Whose OV circuit raises the logit of the token that it attends to, from weights alone",
        "Wang et al. 2023 (arXiv:2211.00593); Elhage et al. 2021",
    ),
    "composition": Method(
        "probe.circuits.composing:composition",
        "How much of what one head writes lies where a later one reads, beyond chance, from weights alone",
        "Elhage et al. 2021 (A Mathematical Framework for Transformer Circuits)",
    ),
    "circuit_overlap": Method(
        "probe.circuits.overlap:circuit_overlap",
        "How many of the heads that one task uses another one uses too, beside random heads",
        "Merullo et al. 2024 (arXiv:2310.08744)",
    ),
    "circuit_transfer": Method(
        "probe.circuits.transfer:circuit_transfer",
        "Whether a task is solved better once the inhibition heads of another look at its wrong options",
        "Merullo et al. 2024 (arXiv:2310.08744)",
    ),
    "attribution_heads": Method(
        "probe.circuits.answer_heads:attribution_heads",
        "The circuits that answer from the context and from memory, and the sentence that an answer comes from",
        "Basu et al. 2025 (AttnAttrib)",
    ),
    "subspace": Method(
        "probe.circuits.projecting:subspace",
        "How few dimensions of a head's queries, keys and values keep what it does",
        "ours",
    ),
    "letter_heads": Method(
        "probe.circuits.letters:letter_heads",
        "Which heads say the right option's letter, by what they add to the letters and by where they look",
        "Lieberum et al. 2023 (arXiv:2307.09458)",
    ),
    "edge_attribution": Method(
        "probe.circuits.edges:edge_attribution",
        "What each path from a head, MLP or the embedding to another's input carries, from one backward pass",
        "Syed et al. 2024 (arXiv:2310.10348)",
    ),
}

#: Short names on the command line and in `method`.
ALIASES: Mapping[str, str] = {
    "direct": "logit_attribution",
    "activation": "activation_patching",
    "attribution": "attribution_patching",
    "path": "path_patching",
    "edges": "edge_attribution",
}


def full_name(name: str) -> str:
    """The method's name that a name or a short one stands for; raises `UnknownNameError` with the nearest."""
    found = ALIASES.get(name, name)
    if found not in METHODS:
        raise UnknownNameError.of("circuit method", name, [*METHODS, *ALIASES])
    return found


def method(name: str) -> Callable[..., Any]:
    """The function of a method, also by its short name; raises `UnknownNameError` with the nearest name."""
    module, _, attribute = METHODS[full_name(name)].where.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found
