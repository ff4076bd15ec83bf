"""Prompts made of a prefix, documents and a suffix, in any order of the documents."""

import torch

from probe.prompts import Prompt


def prompt_of(prefix, documents, suffix):
    """A prompt of token ids with the spans ``doc:0``, ``doc:1``, …"""
    tokens, spans = list(prefix), {}
    for number, document in enumerate(documents):
        spans[f"doc:{number}"] = (len(tokens), len(tokens) + len(document))
        tokens += document
    return Prompt.of_tokens(tokens + list(suffix), None, spans=spans)


def batch_of(prompts, pad=0):
    """Token ids and mask of prompts of different lengths, padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(one)) + list(one.tokens) for one in prompts])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])
    return {"input_ids": ids, "attention_mask": mask}
