"""What heads are worth: losses, perplexity, divergence and continuations under interventions and their controls."""

from probe.analysis.ablation.losses import token_losses

__all__ = ["token_losses"]
