"""Attention that also counts: z and exact statistics in one sweep, without the n×n map.

Imports torch (and, one day, triton) only; never transformers, never probe.
"""
