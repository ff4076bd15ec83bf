"""Linear separability of states that fit from those that do not, on pairs that the classifier has not seen."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

FOLDS = 5
RIDGE = 0.1  # of the mean squared length of standardised states
_TIE = 1e-6  # of decisions that aim at 1 and -1: what is closer is rounding
_FITS = torch.tensor(
    [[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64
)  # prompt (clean, corrupt) × token (right, wrong)


class Separation(NamedTuple):
    """The share of a pair's four comparisons that come out right; and its mean over pairs by draw of the classes."""

    pairs: Float[Tensor, " pair"]
    draws: Float[Tensor, " draw"]


def separation(
    states: Float[Tensor, "pair prompt token d_model"], signs: Int[Tensor, "draw pair"]
) -> Separation:
    """Of a ridge classifier fitted on other pairs, for classes that change places where a draw's sign is -1.

    The first draw is the classes as they are. Features are brought to mean 0 and deviation 1 on the pairs that fit.
    """
    n = len(states)
    wanted = signs.double()[:, :, None, None] * _FITS
    decided = torch.zeros_like(wanted)
    for part in range(min(FOLDS, n)):
        held = torch.arange(n) % FOLDS == part
        decided[:, held] = _decisions(states[~held], states[held], wanted[:, ~held])
    # In classes as they are drawn: fitting ones stand first, whatever the sign.
    fits, others = (decided[:, :, [0, 1], [0, 1]], decided[:, :, [0, 1], [1, 0]])
    apart = signs.double()[:, :, None, None] * (fits[..., :, None] - others[..., None, :])
    apart = torch.where(apart.abs() < _TIE, 0.0, apart)
    shares = ((torch.sign(apart) + 1) / 2).mean((-1, -2))
    return Separation(shares[0], shares.mean(1))


def _decisions(
    seen: Float[Tensor, "pair prompt token d_model"],
    unseen: Float[Tensor, "held prompt token d_model"],
    wanted: Float[Tensor, "draw pair prompt token"],
) -> Float[Tensor, "draw held prompt token"]:
    """Ridge regression in its dual form: one matrix for all draws."""
    fit, held = seen.flatten(0, 2), unseen.flatten(0, 2)
    mean, deviation = fit.mean(0), fit.std(0)
    floor = 1e-4 * deviation.max().clamp_min(1e-12)  # what is flatter is rounding
    fit, held = ((one - mean) / deviation.clamp_min(floor) for one in (fit, held))
    kernel = fit @ fit.T
    ridge = RIDGE * kernel.diagonal().mean().clamp_min(1e-12)
    weights = torch.linalg.solve(kernel + ridge * torch.eye(len(fit), dtype=fit.dtype), fit @ held.T)
    made: Tensor = wanted.flatten(1) @ weights
    return made.reshape(len(wanted), *unseen.shape[:3])
