"""The head taxonomy: profiles by rule, planted kinds found, and neighbours of the same kind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import KINDS, METRICS, kind_of, report_on_kinds
from made_reports import made_answer, made_map, made_report

import probe
from probe.errors import ReportError, UnknownNameError, UsageError
from probe.report import Report
from probe.report.taxonomy import Taxonomy, head_profile, taxonomy


@pytest.fixture(scope="module")
def planted() -> Report:
    return report_on_kinds()


def report_of(*columns: object, name: str = "tiny", **specs: object) -> Report:
    """One layer of heads; columns are m0, m1, … unless named."""
    named = {f"m{i}": column for i, column in enumerate(columns)} | specs
    return made_report(*(made_answer(spec, made_map([values])) for spec, values in named.items()), name=name)


def test_planted_kinds_are_the_clusters(planted: Report) -> None:
    """Four kinds, four clusters, none mixed; the number is found by silhouette and nothing is told of it."""
    found = taxonomy(planted)
    groups = {frozenset(found.members(cluster)) for cluster in range(found.clusters.count)}
    heads = found.profile.heads
    assert groups == {frozenset(head for head in heads if kind_of(head) == kind) for kind in KINDS}
    assert found.clusters.score > 0.6
    assert found.clusters.score == max(found.clusters.by_count.values())


def test_neighbours_are_of_the_same_kind(planted: Report) -> None:
    """The three other heads of its kind are the three nearest of every head."""
    found = taxonomy(planted)
    for head in found.profile.heads:
        nearest = found.near(head, 3)
        assert {kind_of(one) for one in nearest["head"]} == {kind_of(head)}
        assert nearest["distance"].is_monotonic_increasing
        assert head not in set(found.near(head, 99)["head"])


def test_a_cluster_is_told_by_what_it_does(planted: Report) -> None:
    """The metric that marks a kind most is the one that looks for it."""
    found = taxonomy(planted)
    for cluster in range(found.clusters.count):
        kind = kind_of(found.members(cluster)[0])
        marks = [name for name, _ in found.marks(cluster, 2)]
        assert {"previous": "previous_token", "induction": "induction", "sink": "sink", "uniform": "entropy"}[
            kind
        ] in marks


def test_the_map_is_the_principal_components(planted: Report) -> None:
    """Equal to numpy's singular values up to a sign; shares are of the whole variance."""
    found = taxonomy(planted)
    values = found.profile.values.values
    assert values.mean(0) == pytest.approx(np.zeros(len(METRICS)), abs=1e-12)
    assert values.std(0) == pytest.approx(np.ones(len(METRICS)))
    left, singular, _ = np.linalg.svd(values, full_matrices=False)
    np.testing.assert_allclose(np.abs(found.map.values), np.abs(left[:, :2] * singular[:2]), atol=1e-9)
    np.testing.assert_allclose(found.explained, singular[:2] ** 2 / (singular**2).sum(), atol=1e-12)
    np.testing.assert_allclose(values @ found.loadings.values.T, found.map.values, atol=1e-9)


def test_the_same_seed_gives_the_same_answer(planted: Report) -> None:
    """Bit by bit; labels are by size, ties by the first head."""
    one, other = taxonomy(planted, seed=3), taxonomy(planted, seed=3)
    assert one.frame().equals(other.frame())
    sizes = np.bincount(one.clusters.labels.values)
    assert list(sizes) == sorted(sizes, reverse=True)
    assert one.clusters.labels.values[0] == 0  # four clusters of four: the tie goes to the first head


@settings(max_examples=20)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=12, unique=True), st.floats(0.1, 10), st.floats(-5, 5)
)
def test_units_do_not_matter(values: list[float], slope: float, shift: float) -> None:
    """Any rising line through a metric's numbers leaves the profile as it is; ranks survive any rising function."""
    if np.ptp(values) < 1e-3 or np.min(np.diff(sorted(values))) < 1e-6:
        return
    other = [1.0, *([0.0] * (len(values) - 1))]
    for scale, changed in (
        ("z", slope * np.array(values) + shift),
        ("rank", np.arctan(np.array(values) / 1e3)),
    ):
        one = head_profile(report_of(values, other), scale=scale).values.values
        two = head_profile(report_of(changed, other), scale=scale).values.values
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_nan_is_handled_by_rule_and_told() -> None:
    """Undefined stands at the mean; mostly undefined or constant metrics and empty heads are left out, by name."""
    nan = np.nan
    report = report_of(
        half=[1.0, 2.0, 6.0, nan, nan],
        full=[1.0, 5.0, 2.0, 0.5, nan],
        few=[1.0, 2.0, nan, nan, nan],
        same=[2.0, 2.0, 2.0, 2.0, nan],
    )
    found = head_profile(report)
    assert found.metrics == ["half", "full"]
    assert found.left_out == {"few": "defined for 2 of 5 heads", "same": "the same for every head"}
    assert found.filled == {"half": 1}
    assert found.heads == ["L0.H0", "L0.H1", "L0.H2", "L0.H3"]
    assert found.values.sel(head="L0.H3", metric="half") == 0.0
    assert np.isnan(found.raw.sel(head="L0.H3", metric="half"))
    told = " ".join(found.notes)
    assert all(word in told for word in ("few", "same", "1 undefined", "1 heads have no defined value"))


def test_only_numbers_of_heads_count() -> None:
    """A key/value head's number goes to its query heads; numbers of layers and experts are left out by name."""
    heads = made_answer("m", made_map([[1.0, 2.0, 4.0, 9.0]]))
    shared = made_answer("shared", made_map([[3.0, 7.0]]).rename(head="kv_head"))
    layers = made_answer("layers", made_map([[3.0]]).isel(head=0, drop=True).drop_vars("n_heads"))
    odd = made_answer("odd", made_map([[3.0, 7.0, 1.0]]).rename(head="kv_head"))
    found = head_profile(made_report(heads, shared, layers, odd))
    assert found.raw.sel(metric="shared").values.tolist() == [3.0, 3.0, 7.0, 7.0]
    assert found.left_out == {
        "layers": "one number per layer",
        "odd": "its key/value heads do not divide the heads",
    }


def test_reports_of_one_model_are_joined_and_of_several_stacked() -> None:
    """Columns side by side, the same column averaged; heads of two models carry their model's name."""
    one, two = (
        report_of(a=[1.0, 2.0, 3.0], b=[1.0, np.nan, 4.0]),
        report_of(b=[3.0, 5.0, 2.0], c=[1.0, 0.0, 2.0]),
    )
    joined = head_profile([one, two])
    assert joined.metrics == ["a", "b", "c"]
    assert joined.raw.sel(metric="b").values.tolist() == [2.0, 5.0, 3.0]
    stacked = head_profile([one, report_of(b=[3.0, 5.0, 2.0], c=[1.0, 0.0, 2.0], name="other")])
    assert stacked.metrics == ["b"]
    assert stacked.heads[0] == "tiny/L0.H0"
    assert stacked.heads[-1] == "other/L0.H2"
    assert "measured on tiny" in stacked.left_out["a"]


def test_one_metric_and_heads_that_do_not_group() -> None:
    """The second component is empty; a weak silhouette is told."""
    found = taxonomy(report_of([1.0, 2.0, 4.0, 8.0]))
    assert found.map.values[:, 1].tolist() == [0.0] * 4
    assert found.explained.values.tolist() == [1.0, 0.0]
    random = np.random.default_rng(0).normal(size=(8, 60))
    cloud = taxonomy(report_of(*random))
    assert any("cuts through one cloud" in note for note in cloud.notes)
    alike = taxonomy(report_of([0.0, 0.0, 1.0]), clusters=None)
    assert alike.clusters.count == 1
    assert any("one cluster" in note for note in alike.notes)


def test_bad_calls_say_what_to_do(planted: Report) -> None:
    """Unknown metrics, heads, scales, towers and impossible numbers of clusters."""
    with pytest.raises(UnknownNameError, match="did you mean 'entropy'"):
        taxonomy(planted, metrics=["entrpy"])
    with pytest.raises(UnknownNameError, match=r"did you mean 'L\d"):
        taxonomy(planted).near("L9.H0")
    with pytest.raises(UsageError, match="z or rank"):
        taxonomy(planted, scale="robust")
    with pytest.raises(UsageError, match="1 clusters were asked"):
        taxonomy(planted, clusters=1)
    with pytest.raises(UsageError, match="16 clusters"):
        taxonomy(planted, clusters=16)
    with pytest.raises(ReportError, match="vision heads"):
        taxonomy(planted, tower="vision")
    with pytest.raises(ReportError, match="no report"):
        taxonomy([])
    assert isinstance(probe.taxonomy(planted, clusters=2), Taxonomy)


def test_command_works_without_torch(planted: Report, tmp_path: Path) -> None:
    """Text and ``--near``, on a machine that could not make the report."""
    folder = planted.save(tmp_path / "run")
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'transformers'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from probe.cli import main\nsys.exit(main(['taxonomy', sys.argv[1], '--near', 'L0.H1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "16 heads · 7 metrics" in done.stdout
    assert any(f"nearest to L0.H1 {head} " in done.stdout for head in ("L1.H0", "L2.H3", "L3.H2"))
