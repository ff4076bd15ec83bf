"""TransformerLens as a source of attention: metrics of what an `ActivationCache` or a bridge holds."""

from probe.analysis.lens.from_lens import from_lens

__all__ = ["from_lens"]
