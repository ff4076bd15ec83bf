"""Encoders: bidirectional, no cache."""

from functools import partial

from subjects import words
from subjects.subject import Subject, build, tiny


def encoder(
    name: str, prefix: str, entries: dict[str, object] | None = None, **properties: object
) -> Subject:
    """``<prefix>ForMaskedLM`` from ``<prefix>Config``; pass `model` or `config` where they differ."""
    config = str(properties.pop("config", f"{prefix}Config"))
    model = str(properties.pop("model", f"{prefix}ForMaskedLM"))
    make = partial(build, config, model, tiny(entries or {}))
    base = {"family": "encoder", "kind": "encoder", "towers": ("encoder",), "cache": False, "generate": False}
    return Subject(name=name, make=make, build_inputs=words.text, **{**base, **properties})  # type: ignore[arg-type]


SUBJECTS = [
    encoder("bert", "Bert"),
    encoder("roberta", "Roberta"),
    encoder("albert", "Albert", {"embedding_size": 16}, features=("shared layers",)),
    encoder("electra", "Electra", {"embedding_size": 16}),
    encoder("distilbert", "DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}),
    encoder(
        "modernbert",
        "ModernBert",
        {"local_attention": 8, "global_attn_every_n_layers": 2, "sep_token_id": 2, "cls_token_id": 1},
        features=("window", "bidirectional window"),
    ),
    encoder("camembert", "Camembert"),
    encoder("xlm-roberta-xl", "XLMRobertaXL"),
    encoder("esm", "Esm", {"position_embedding_type": "rotary", "mask_token_id": 4}),
    encoder("eurobert", "EuroBert", features=("gqa",)),
    encoder("nomic-bert", "NomicBert", {"head_dim": 8}),
    encoder("roberta-prelayernorm", "RobertaPreLayerNorm"),
]
