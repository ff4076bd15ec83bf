"""Attention that also counts, in Triton. Imported only when that backend is chosen."""

import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction


def interpreted() -> bool:
    """Whether Triton's functions, and so ours, were made for its interpreter: settled when Triton was imported."""
    return isinstance(tl.sum, InterpretedFunction)
