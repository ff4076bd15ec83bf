"""Attention that also counts, in Triton. Imported only when that backend is chosen."""
