"""The calls whose launches are compiled: sets of statistics, dtypes, widths, masks."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from probe_kernels.bench import DEFAULTS
from probe_kernels.fused import backend
from probe_kernels.mask import Mask, Predicate, causal, same_segment, within
from probe_kernels.types import Layout, Match, Scores, Want
from probe_kernels.visit import Visit

ARCHITECTURES = (80, 90)
WIDTHS = (64, 80, 96, 128, 192, 256)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_N = 1024
_PLAIN = "z"
BUDGETED = "z, entropy, table, span"


def _wants() -> dict[str, Want]:
    span = {"span": torch.zeros(1, _N, dtype=torch.int64)}
    ids = torch.zeros(1, _N, dtype=torch.int64)
    return {
        _PLAIN: Want(lse=True),
        "z, entropy": Want(entropy=True),
        "z, squares": Want(square=True),
        "z, top": Want(top=True),
        "z, table": Want(table=64),
        "z, distance": Want(distance=True),
        "z, span": Want(key_groups=span),
        BUDGETED: Want(entropy=True, table=64, key_groups=span),
        "default metrics": DEFAULTS,
        "all of rows": Want(
            entropy=True,
            square=True,
            top=True,
            distance=True,
            first=(1,),
            offsets=(1,),
            table=64,
            key_groups=span,
            matches={"same": Match(ids, ids)},
        ),
        "four functionals": Want(z=False, distance=True, first=(1,), offsets=(1,), key_groups=span),
        "column": Want(z=False, column=True),
        "column and bands": Want(z=False, column=True, bands=((1, 4), (5, 64), (65, 512))),
    }


@dataclass(frozen=True)
class Case:
    """One call: architecture, dtype, head width, statistics, and what else it carries (`form`)."""

    arch: int
    dtype: str
    width: int
    statistics: str
    form: str = "causal"

    @property
    def plain(self) -> "Case":
        """The call that a loop with statistics is compared with."""
        return Case(self.arch, self.dtype, self.width, _PLAIN)

    def run(self) -> None:
        """Make the call, on tensors of zeros."""
        want = _wants()[self.statistics]
        n = 1 if self.form == "decode" else _N
        dtype = DTYPES[self.dtype]
        positions = torch.arange(_N)[None]
        key = torch.zeros(1, 2, _N, self.width, dtype=dtype)
        scores = Scores(
            torch.zeros(1, 8, n, self.width, dtype=dtype),
            key,
            torch.zeros_like(key),
            self.width**-0.5,
            softcap=30.0 if self.form == "softcap" else None,
            alibi=torch.ones(8) if self.form == "alibi" else None,
            bias=torch.zeros(1, 8, n, _N, dtype=dtype) if self.form == "bias" else None,
        )
        segments = torch.zeros(1, _N, dtype=torch.int64) if self.form == "segments" else None
        layout = Layout(
            Mask(_rules(self.form)),
            positions[:, _N - n :],
            positions,
            query_segment=segments,
            key_segment=segments,
            key_real=(positions > 3) if self.form == "padding" else None,
        )
        visit = Visit(64, torch.arange(512).expand(1, 1, _N // 64, 512)) if self.form == "visit" else None
        backend.attend(scores, layout, want, visit=visit)


def _rules(form: str) -> tuple[Predicate, ...]:
    more = {"window": (within(256),), "segments": (same_segment(),)}
    return (causal(), *more.get(form, ()))


def quick() -> Iterator[Case]:
    """A few calls, for tests: plain and with the statistics of the budget, and what goes over columns."""
    for arch in ARCHITECTURES:
        yield Case(arch, "bf16", 64, _PLAIN)
    yield Case(80, "bf16", 64, BUDGETED)


def everything() -> Iterator[Case]:
    """Every set of statistics by architecture, 16-bit dtype and width; other forms, and float32, for a few widths."""
    for arch in ARCHITECTURES:
        for dtype in ("bf16", "fp16"):
            for width in WIDTHS:
                yield from (Case(arch, dtype, width, name) for name in _wants())
        for width in (64, 128):
            yield from (Case(arch, "fp32", width, name) for name in (_PLAIN, BUDGETED, "column"))
        for width in (64, 128, 256):
            for form in ("decode", "padding", "window", "segments", "softcap", "alibi", "bias", "visit"):
                yield from (Case(arch, "bf16", width, name, form) for name in (_PLAIN, "z, entropy"))
