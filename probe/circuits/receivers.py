"""Where the paths of path patching end: the logits, or the queries, keys or values of heads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from probe.errors import UnknownNameError, UsageError
from probe.terms import HeadId

Kind = Literal["logits", "q", "k", "v"]
LOGITS = "logits"


@dataclass(frozen=True)
class Heads:
    """How many query heads and key/value heads each layer has."""

    query: Mapping[int, int]
    key: Mapping[int, int]

    @property
    def total(self) -> int:
        """Query heads of the whole model."""
        return sum(self.query.values())

    def all(self) -> dict[int, tuple[int, ...]]:
        """Every head, by layer."""
        return {layer: tuple(range(n)) for layer, n in self.query.items()}

    def require(self, head: HeadId) -> None:
        """Raise `UnknownNameError` for a head that the decoder lacks."""
        if head.tower != "decoder" or not head.head < self.query.get(head.layer, 0):
            known = [f"L{layer}.H{n - 1}" for layer, n in self.query.items()]
            raise UnknownNameError(
                f"unknown head '{head}'; the decoder's layers have heads up to {', '.join(known[:3])}, …, {known[-1]}"
            )

    def by_layer(self, names: Sequence[str]) -> dict[int, tuple[int, ...]]:
        """Named heads by layer, each once; raises `UsageError` or `UnknownNameError`."""
        found: dict[int, set[int]] = {}
        for name in names:
            head = HeadId.parse(name)
            self.require(head)
            found.setdefault(head.layer, set()).add(head.head)
        return {layer: tuple(sorted(found[layer])) for layer in sorted(found)}


@dataclass(frozen=True)
class Receiver:
    """One end of paths; of keys and values `unit` is the key/value head that serves the named head."""

    name: str
    kind: Kind
    layer: int = -1
    unit: int = 0

    @classmethod
    def parse(cls, text: str, heads: Heads) -> "Receiver":
        """Read ``logits``, or a head with ``.q``, ``.k`` or ``.v`` behind it (``L10.H2.q``).

        Raises:
            UsageError: anything else.
            UnknownNameError: a head that the model lacks.
        """
        name = text.strip()
        if name == LOGITS:
            return cls(name, "logits")
        head_name, _, kind = name.rpartition(".")
        if kind not in ("q", "k", "v"):
            raise UsageError(
                f"receiver {text!r} was asked; receivers are 'logits', or a head's queries, keys or values such as "
                "'L10.H2.q', 'L10.H2.k', 'L10.H2.v'"
            )
        head = HeadId.parse(head_name)
        heads.require(head)
        group = heads.query[head.layer] // heads.key[head.layer]
        unit = head.head if kind == "q" else head.head // group
        return cls(f"{head}.{kind}", kind, head.layer, unit)  # type: ignore[arg-type]


def receivers_of(asked: str | Sequence[str], heads: Heads) -> tuple[Receiver, ...]:
    """The receivers that were asked, each once; in one text they are joined by ``+``.

    Raises:
        UsageError: none, or the logits together with heads (a path to the logits is a pass of its own).
    """
    names = asked.split("+") if isinstance(asked, str) else list(asked)
    found = tuple(dict.fromkeys(Receiver.parse(name, heads) for name in names))
    if not found:
        raise UsageError("no receiver was asked; give 'logits' or heads such as 'L10.H2.q'")
    if len(found) > 1 and any(one.kind == "logits" for one in found):
        raise UsageError(
            f"the receivers {', '.join(one.name for one in found)} were asked; 'logits' stands alone: ask for "
            "it, and for heads, in two calls"
        )
    return found


def serving_notes(receivers: Sequence[Receiver], heads: Heads) -> list[str]:
    """What to say of keys and values that several query heads share."""
    shared = [
        f"{one.name} (key/value head {one.unit}, {heads.query[one.layer] // heads.key[one.layer]} query heads)"
        for one in receivers
        if one.kind in ("k", "v") and heads.query[one.layer] > heads.key[one.layer]
    ]
    return (
        [f"keys and values are patched for all heads that share them: {', '.join(shared)}"] if shared else []
    )
