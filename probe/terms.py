"""The glossary: axis words, head names, towers and the spec grammar. Imports nothing heavy.

Axis words, everywhere in this order: ``prompt, tower, layer, head`` (``kv_head`` for key/value heads),
``token``, ``query_pos`` (rows of a pattern), ``key_pos`` (columns), ``d_head``, ``d_model``, ``span``, ``block``.

- *scores*: q·k × scale, softcapped and biased, before the softmax.
- *pattern*: after the softmax; a row sums to 1, less the mass of a learned sink.
- *z*: a head's output before W_O (``d_head`` wide). *head_out*: z through its slice of W_O (``d_model`` wide).
- *visible key*: a key that the mask lets a query see. *real*: not padding.
- *tower*: one stack of attention layers: ``decoder``, ``encoder``, ``cross``, ``vision``, ``audio``.
"""

import re
from dataclasses import dataclass

from probe.errors import UsageError

# The prefix that a tower puts before a head's name; the decoder's self-attention has none.
TOWER_PREFIX = {"decoder": "", "encoder": "enc.", "cross": "cross.", "vision": "vision.", "audio": "audio."}
_PREFIX_TOWER = {prefix: tower for tower, prefix in TOWER_PREFIX.items()}
_HEAD = re.compile(r"((?:[a-z]+\.)?)L(\d+)\.H(\d+)")

DEFAULT_METRICS = ("entropy", "sink", "received", "distance", "previous_token")


@dataclass(frozen=True, order=True)
class HeadId:
    """One query head of one layer, written ``L18.H6``; other towers take a prefix: ``enc.L3.H1``.

    >>> HeadId.parse("enc.L3.H1")
    HeadId(tower='encoder', layer=3, head=1)
    >>> str(HeadId("decoder", 18, 6))
    'L18.H6'
    """

    tower: str
    layer: int
    head: int

    def __str__(self) -> str:
        return f"{TOWER_PREFIX.get(self.tower, self.tower + '.')}L{self.layer}.H{self.head}"

    @classmethod
    def parse(cls, text: str) -> "HeadId":
        """Read a head's name; raises `UsageError` on anything else."""
        match = _HEAD.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"a head was asked as {text!r}; heads are written like L18.H6 (or enc.L3.H1)")
        prefix = match[1]
        return cls(_PREFIX_TOWER.get(prefix, prefix.rstrip(".")), int(match[2]), int(match[3]))


@dataclass(frozen=True)
class Spec:
    """A name with parameters as typed on the command line, ``NAME:k=v,…``; lists are joined by ``+``.

    >>> Spec.parse("sink:n=4")
    Spec(text='sink:n=4', name='sink', params={'n': '4'})
    """

    text: str
    name: str
    params: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Split a spec into its name and its parameters (still strings); raises `UsageError`."""
        name, colon, rest = text.strip().partition(":")
        params: dict[str, str] = {}
        for item in rest.split(",") if colon else ():
            key, equals, value = item.partition("=")
            if not (key and equals and value):
                raise UsageError(
                    f"{text!r} was asked; {item!r} is not of the form k=v: write NAME:k=v,k=v, "
                    "and join lists by +"
                )
            if key in params:
                raise UsageError(f"{text!r} was asked; it gives {key!r} twice: give each parameter once")
            params[key] = value
        if not name:
            raise UsageError(f"{text!r} was asked; it has no name: write NAME or NAME:k=v")
        return cls(text.strip(), name, params)
