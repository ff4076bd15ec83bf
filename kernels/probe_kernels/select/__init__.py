"""Sparse patterns: who keeps which keys."""

from probe_kernels.select.base import Pattern, Selection, Site

__all__ = ["Pattern", "Selection", "Site"]
