"""Chooses who computes: the argument, else PROBE_KERNELS, else Triton on CUDA and the blocked torch path elsewhere.

What was asked by name is never replaced by something else: where it cannot run, `BackendError` says why.
"""

import os
from collections.abc import Callable
from typing import Literal, cast, get_args

import torch

from probe_kernels import available, reference, sparse, sweep
from probe_kernels.types import Attended, Edits, Layout, Scores, Want
from probe_kernels.visit import Visit

Backend = Literal["reference", "torch", "triton"]


class BackendError(ValueError):
    """A backend that does not exist, or cannot serve here."""


def attend(
    scores: Scores,
    layout: Layout,
    want: Want,
    *,
    edits: Edits | None = None,
    visit: Visit | None = None,
    backend: str | None = None,
) -> Attended:
    """Attention and every wanted statistic, in one sweep over the keys, without the n×n map.

    Args:
        scores: q, k, v and what else makes the scores.
        layout: Mask, positions, segments and padding.
        want: The statistics asked for.
        edits: Edits of score and probability blocks; z and every statistic come from the edited attention.
        visit: The keys that each block of queries looks at, besides the mask; z and every statistic are of the
            attention among them, renormalised. What it leaves out is not computed.
        backend: ``reference`` (float64, dense, for tests), ``torch`` (blocked) or ``triton``; None reads the
            environment variable PROBE_KERNELS and else takes ``triton`` on CUDA, where it is there and takes the
            call, and ``torch`` elsewhere.

    Raises:
        BackendError: An unknown backend, or one that cannot run here or does not take these dtypes or widths.
        ValueError: z or parts without a value; shapes that do not fit; a query with no key at all to attend to;
            edits of heads that do not exist; a table of edited probabilities; a visit that does not fit, or edits
            or rows under one (blocks of a visit are no stretches of storage).
    """
    _check(scores, layout, want)
    if edits is not None:
        edits.heads(scores.query.shape[1])
        if edits.probs and want.table:
            raise ValueError(
                "the block-LSE table was wanted while probabilities are edited, but it tells of scores; "
                "ask for one of the two"
            )
    if visit is not None:
        visit.require(
            scores.query.shape[0], scores.query.shape[1], scores.query.shape[2], scores.key.shape[2]
        )
    return _SERVE[backend_for(scores, want, backend)](scores, layout, want, edits, visit)


def backend_for(scores: Scores, want: Want, backend: str | None = None) -> Backend:
    """Who computes a call, as `chosen_backend`; where nobody was asked for and Triton does not take the call, torch.

    Raises:
        BackendError: as `attend`.
    """
    name = chosen_backend(backend, scores.query.device)
    if name != "triton":
        return name
    why = available.refusal(scores, want)
    if why is None:
        return name
    if not _asked(backend)[0]:
        return "torch"
    raise BackendError(f"{why}: use backend='torch'")


def chosen_backend(backend: str | None, device: torch.device | str | None = None) -> Backend:
    """Who computes on a device where `backend` is asked; raises `BackendError` as `attend`.

    None: what PROBE_KERNELS says, else ``triton`` on a CUDA device that it compiles for, else ``torch``. Without a
    device, only the name is checked.
    """
    name, source = _asked(backend)
    where = None if device is None else torch.device(device)
    if not name:
        cuda = where is not None and where.type == "cuda"
        return "triton" if cuda and where is not None and available.lacking(where) is None else "torch"
    if name not in get_args(Backend):
        raise BackendError(f"{source}{name} is not a backend; choose one of {', '.join(get_args(Backend))}")
    why = None if where is None or name != "triton" else available.lacking(where)
    if why is not None:
        raise BackendError(
            f"{source}triton was asked for, but {why}; or use torch (any device) or reference (float64)"
        )
    return cast(Backend, name)


def _asked(backend: str | None) -> tuple[str, str]:
    """The backend's name, empty where none was asked, and where it was asked."""
    if backend is not None:
        return backend, "backend="
    return os.environ.get("PROBE_KERNELS") or "", "PROBE_KERNELS="


def _reference(
    scores: Scores, layout: Layout, want: Want, edits: Edits | None, visit: Visit | None
) -> Attended:
    return reference.attend(scores, layout, want, edits, visit=visit)


def _torch(scores: Scores, layout: Layout, want: Want, edits: Edits | None, visit: Visit | None) -> Attended:
    if visit is None:
        return sweep.attend(scores, layout, want, edits)
    return sparse.attend(scores, layout, want, visit, edits)


def _triton(scores: Scores, layout: Layout, want: Want, edits: Edits | None, visit: Visit | None) -> Attended:
    # Imported when first used: whoever computes elsewhere need not have Triton.
    from probe_kernels.fused import backend

    return backend.attend(scores, layout, want, edits, visit=visit)


_SERVE: dict[Backend, Callable[[Scores, Layout, Want, Edits | None, Visit | None], Attended]] = {
    "reference": _reference,
    "torch": _torch,
    "triton": _triton,
}


def _check(scores: Scores, layout: Layout, want: Want) -> None:
    n_query, n_key = scores.query.shape[2], scores.key.shape[2]
    if n_query == 0 or n_key == 0:
        raise ValueError(f"attention needs at least one query and one key; found {n_query} and {n_key}")
    if layout.query_pos.shape[-1] != n_query or layout.key_pos.shape[-1] != n_key:
        found = f"{tuple(layout.query_pos.shape)} and {tuple(layout.key_pos.shape)}"
        raise ValueError(
            f"positions {found} do not fit {n_query} queries and {n_key} keys; give [b, Q] and [b, K]"
        )
    if (want.z or want.parts) and scores.value is None:
        raise ValueError(
            "z or parts were wanted, but the scores carry no value; give a value or Want(z=False)"
        )
    unknown = want.parts - want.key_groups.keys()
    if unknown:
        raise ValueError(f"parts of {sorted(unknown)} were wanted, but no such key_groups; name them in both")
