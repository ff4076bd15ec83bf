"""Heads of known kinds: several of each, none quite like another, and a report of what metrics say of them."""

import torch
from made_reports import made_report
from planted import repeated_tokens, targets

from probe.metrics import answers, make
from probe.report import Report
from probe.testing import Sample, feed

KINDS = ("previous", "induction", "sink", "uniform")
METRICS = ("entropy", "sink", "previous_token", "induction", "duplicate_token", "distance", "max_prob")


def kind_of(name: str) -> str:
    """The kind of a head by its name: the kinds change places from layer to layer."""
    layer, head = (int(part[1:]) for part in name.split("."))
    return KINDS[(head + layer) % len(KINDS)]


def of_kinds(layers: int = 4, half: int = 12, seed: int = 0, noise: float = 0.3) -> Sample:
    """`layers` heads of every kind: logits of 5 to 6 on what the kind looks at, and noise on every logit."""
    random = torch.Generator().manual_seed(seed)
    tokens = repeated_tokens(half, seed)
    n, rows = len(tokens), torch.arange(len(tokens))
    looks = {name: torch.tensor(keys) for name, keys in targets(tokens).items()}
    logits = noise * torch.randn(layers, len(KINDS), n, n, generator=random, dtype=torch.float64)
    sharp = 5 + torch.rand(layers, len(KINDS), generator=random, dtype=torch.float64)
    for layer in range(layers):
        for head in range(len(KINDS)):
            kind = kind_of(f"L{layer}.H{head}")
            if kind != "uniform":
                logits[layer, head, rows, looks[kind]] += sharp[layer, head]
    key = torch.eye(n, dtype=torch.float64).expand(layers, 1, n, n)
    return Sample(logits, key, torch.ones(layers, 1, n, 1, dtype=torch.float64), tokens)


def report_on_kinds(**changes: object) -> Report:
    """What the metrics say of the heads of `of_kinds`."""
    sample = of_kinds(**changes)
    return made_report(*(answers(feed(make(spec), [sample]))[0] for spec in METRICS))
