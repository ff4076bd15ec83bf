"""How a decoder-only subject is stated: a class prefix and what differs from the tiny defaults."""

from functools import partial

from subjects import words
from subjects.subject import Subject, build, tiny


def decoder(
    name: str, prefix: str, entries: dict[str, object] | None = None, **properties: object
) -> Subject:
    """``<prefix>ForCausalLM`` from ``<prefix>Config``; pass `model` or `config` where they differ."""
    family = str(properties.pop("family", "dense"))
    config = str(properties.pop("config", f"{prefix}Config"))
    model = str(properties.pop("model", f"{prefix}ForCausalLM"))
    drop = tuple(properties.pop("drop", ()))  # type: ignore[call-overload]
    make = partial(build, config, model, tiny(entries or {}, drop=drop))
    return Subject(name, family, make, words.text, **properties)  # type: ignore[arg-type]
