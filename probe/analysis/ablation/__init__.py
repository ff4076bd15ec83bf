"""What heads are worth: losses, perplexity, divergence and continuations under interventions and their controls."""

from probe.analysis.ablation.ablate import ablate
from probe.analysis.ablation.losses import token_losses
from probe.analysis.ablation.options import AblateOptions
from probe.analysis.ablation.result import Ablation

__all__ = ["AblateOptions", "Ablation", "ablate", "token_losses"]
