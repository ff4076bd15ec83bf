"""Every metric keeps every law."""

from functools import partial

import pytest

from probe.metrics import METRICS, make
from probe.metrics.making import parameters
from probe.testing import LAWS

# A metric with parameters is held to the laws at another value as well; a new metric is covered without an entry.
OTHER_VALUES = {
    "key_mass": ["key_mass:key=3"],
    "sink_heads": ["sink_heads:key=2,threshold=0.1"],
    "sink_logit_gap": ["sink_logit_gap:mean=all"],
    "column_entropy": ["column_entropy:least=4"],
    "value_drain": ["value_drain:span=middle", "value_drain:span=none"],
    "residual_peak": ["residual_peak:point=resid_post,over=max,span=middle"],
    "massive_activation": ["massive_activation:dims=1+4,tau=1.2"],
    "entropy": ["entropy:normalized=true"],
    "sink": ["sink:n=3"],
    "future_influence": ["future_influence:lo=1,hi=4"],
    "waad": ["waad:window=3"],
    "local_global": ["local_global:fraction=0.5"],
    "duplicate_token": ["duplicate_token:norm=matched"],
    "induction": ["induction:norm=matched"],
    "effective_rank": ["effective_rank:centred=true"],
    "qk_shift": ["qk_shift:skip=2"],
    "entropy_query_norm": ["entropy_query_norm:skip=2,without_first=true"],
    "source_share": [
        "source_share:source=middle,form=lookback",
        "source_share:form=excess",
        "source_share:source=none",
    ],
    "entropy_state": ["entropy_state:collapse=0.3,overload=0.6"],
    "head_diversity": ["head_diversity:unbiased=true"],
    "concentration": ["concentration:of=rows"],
    "local_focus": ["local_focus:offset=2"],
    "cascade_importance": ["cascade_importance:keep=0.2,fair=true"],
    "void": ["void:alpha=0.3"],
    "expert_routing": ["expert_routing:k=2,span=middle"],
    "span_mass": ["span_mass:span=middle", "span_mass:span=none"],
}


def specs() -> list[str]:
    plain = [
        name
        for name, one in METRICS.items()
        if not any(p.default is p.empty for p in parameters(one).values())
    ]
    return [*plain, *(spec for more in OTHER_VALUES.values() for spec in more)]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("spec", specs())
def test_law(spec: str, law: str) -> None:
    """The law holds for the metric."""
    LAWS[law](partial(make, spec))


def test_every_metric_is_held_to_the_laws() -> None:
    """No name of the table is left out."""
    assert {spec.partition(":")[0] for spec in specs()} == set(METRICS)
