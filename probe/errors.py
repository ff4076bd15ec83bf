"""Every error that probe raises.

::

    ProbeError                      exit code 1, unless said otherwise
    ├── UsageError                  the call was wrong (exit code 2): nothing was run, nothing written
    │   ├── UnknownNameError        a model, metric, parameter, span or head that does not exist
    │   ├── InputError              text, file, row or span that cannot be used
    │   ├── InterventionError       an intervention that cannot act on this model, or that never acted
    │   └── OutputError             an output folder that cannot be used
    ├── CaptureError                attention could not be seen or was not what the seam promises
    │   ├── UnseenLayersError       layers whose attention never reached the seam (exit code 2)
    │   ├── UnsupportedAttentionError   a keyword, mask or cache that the seam does not honour
    │   └── ModelInUseError         a second observer on a model that somebody else observes or edits
    ├── MetricError                 a metric cannot be computed from what was captured
    ├── WorkerError                 a process that was given part of the work failed or died
    ├── BudgetError                 the result would need more memory than was allowed (exit code 2)
    ├── ModelError                  weights that cannot be fetched, read or trusted: sha256, NaN (exit code 2)
    └── ReportError                 a report that cannot be read or does not hold what was asked (exit code 2)

A message says three things: what was asked, what was found, what to do.
"""

import difflib
from collections.abc import Iterable


class ProbeError(Exception):
    """Base of every error that probe raises."""

    exit_code = 1


class UsageError(ProbeError):
    """The call was wrong: nothing was run and nothing was written."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that does not exist; the message offers the nearest one that does."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> "UnknownNameError":
        """Build the error for an unknown `name` of a `kind`, offering the nearest of `known`."""
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}."
        return cls(f"unknown {kind} {name!r}; {hint}")


class InputError(UsageError):
    """Text, a file, a row or a span that cannot be used."""


class InterventionError(UsageError):
    """An intervention that cannot act on this model, or that never acted; the message names the layers."""


class OutputError(UsageError):
    """An output folder that cannot be used."""


class CaptureError(ProbeError):
    """Attention could not be seen, or was not what the seam promises."""


class UnseenLayersError(CaptureError):
    """Layers whose attention never reached the seam; the message names them."""

    exit_code = 2


class UnsupportedAttentionError(CaptureError):
    """A keyword, mask form or cache that the seam refuses to guess about."""


class ModelInUseError(CaptureError):
    """The model is already observed or edited by another owner."""


class MetricError(ProbeError):
    """A metric cannot be computed from what was captured."""


class WorkerError(ProbeError):
    """A process that was given part of the work failed or died; the message names that part."""


class BudgetError(ProbeError):
    """The result would need more memory than was allowed; the message states the size."""

    exit_code = 2


class ModelError(ProbeError):
    """Weights that cannot be fetched, read or trusted."""

    exit_code = 2


class ReportError(ProbeError):
    """A report that cannot be read, or does not hold what was asked."""

    exit_code = 2
