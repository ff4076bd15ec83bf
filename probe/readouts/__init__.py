"""Readouts: what a model says: logits a few rows at a time, and the loss of every token."""
