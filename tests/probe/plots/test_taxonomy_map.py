"""The map of a head taxonomy as a picture."""

import json

import numpy as np
import pytest
from kinds import report_on_kinds

from probe.errors import UnknownNameError
from probe.plots import taxonomy_map
from probe.report.taxonomy import taxonomy


def test_every_head_is_a_dot_of_its_cluster() -> None:
    """At its two components, named on hover; axes tell how much of the variance they hold."""
    found = taxonomy(report_on_kinds())
    figure = taxonomy_map(found, title="<b>a")
    dots = {
        name: (x, y, cluster)
        for cluster, trace in enumerate(figure.data)
        for name, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
    }
    frame = found.frame().set_index("head")
    assert dots.keys() == set(frame.index)
    for name, (x, y, cluster) in dots.items():
        np.testing.assert_allclose(
            frame.loc[name, ["x", "y", "cluster"]].to_numpy(dtype=float), (x, y, cluster)
        )
    assert f"{found.explained.values[0]:.0%}" in figure.layout.xaxis.title.text
    json.loads(figure.to_json(), parse_constant=pytest.fail)
    assert "<b>" not in figure.layout.title.text


def test_a_head_and_its_neighbours_can_be_ringed() -> None:
    """The head and as many as asked; an unknown one is an error."""
    found = taxonomy(report_on_kinds())
    ringed = taxonomy_map(found, near="L0.H1", n=3).data[-1]
    assert list(ringed.text) == ["L0.H1", *found.near("L0.H1", 3)["head"]]
    with pytest.raises(UnknownNameError):
        taxonomy_map(found, near="L7.H7")
