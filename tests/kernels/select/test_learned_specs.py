"""Selectors by spec: what is written is what is made, and what cannot be read is refused."""

import pytest
from probe_kernels.select import PATTERNS, make, oracle_topk, persistent_topk, pooled_topk

SPECS = {
    "vertical_slash": "vertical_slash:vertical=128,slash=164,last=64",
    "pooled_topk": "pooled_topk:block=64,tau=0.9",
    "antidiagonal": "antidiagonal:block=64,stride=16,tau=0.9",
    "anchor_stripe": "anchor_stripe:theta=12,block=128,step=16",
    "permuted_block": "permuted_block:block=128,segment=256,tau=0.9",
    "persistent_topk": "persistent_topk:k=256,layers=2+13,block=64",
    "oracle_topk": "oracle_topk:k=64,block=1",
}


@pytest.mark.parametrize("name", SPECS)
def test_a_bare_name_has_the_defaults_and_says_them(name: str) -> None:
    assert name in PATTERNS
    pattern = make(name)
    assert pattern.name == SPECS[name]
    assert make(pattern.name) == pattern


@pytest.mark.parametrize(
    "spec",
    [
        "pooled_topk:block=32,k=5,keep_first=false",
        "vertical_slash:vertical=9,slash=7,last=3,local=0,keep_diagonal=false",
        "persistent_topk:k=3,layers=0,block=8",
        "anchor_stripe:theta=2.5,block=64,step=2",
        "oracle_topk:tau=0.25,block=16",
        "pooled_topk:block=64,tau=0.912345678",
    ],
)
def test_every_parameter_survives_the_name(spec: str) -> None:
    assert make(spec).name == spec


def test_values_are_read_as_what_they_are() -> None:
    assert make("persistent_topk:layers=1+4+9") == persistent_topk(layers=(1, 4, 9))
    assert make("pooled_topk:tau=0.5,keep_diagonal=False") == pooled_topk(tau=0.5, keep_diagonal=False)
    assert make("oracle_topk:k=3") == oracle_topk(3)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("pooled_topk:block=two", "block"),
        ("pooled_topk:width=2", "width"),
        ("pooled_topk:block=2,block=3", "block"),
        ("pooled_topk:block", "block"),
        ("pooled_topk:keep_first=maybe", "keep_first"),
        ("persistent_topk:layers=2+x", "layers"),
        ("pooled_topk:tau=nan", "tau=nan"),
        ("pooled_top", "pooled_top"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(spec: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(spec)
