"""What heads are worth: losses, perplexity, divergence and continuations under interventions and their controls."""

from probe.analysis.ablation.ablate import ablate
from probe.analysis.ablation.options import AblateOptions
from probe.analysis.ablation.result import Ablation
from probe.readouts.losses import token_losses

__all__ = ["AblateOptions", "Ablation", "ablate", "token_losses"]
