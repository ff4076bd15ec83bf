"""How calls are cut into launches: all that is asked is computed once, and what would spill goes into several."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_kernels import Layout, Mask, Scores, Want
from probe_kernels.fused import asked, plan
from probe_kernels.fused.problem import Problem
from probe_kernels.mask import causal


def problem(width: int, dtype: torch.dtype = torch.bfloat16, *, shuffled: bool = False) -> Problem:
    n = 40
    states = torch.zeros(1, 2, n, width, dtype=dtype)
    positions = torch.arange(n)[None]
    keys = positions.flip(1) if shuffled else positions
    return Problem.of(Scores(states, states, states, 1.0), Layout(Mask((causal(),)), positions, keys))


wants = st.builds(
    Want,
    z=st.booleans(),
    entropy=st.booleans(),
    square=st.booleans(),
    top=st.booleans(),
    distance=st.booleans(),
    first=st.sampled_from([(), (1,), (1, 4)]),
    offsets=st.sampled_from([(), (1,), (1, 2, 3, 4, 5)]),
    table=st.sampled_from([0, 16, 96, 128]),
    key_groups=st.sampled_from([{}, {"span": torch.zeros(1, 40, dtype=torch.int64)}]),
)


@settings(deadline=None, max_examples=40)
@given(wants, st.sampled_from([16, 64, 128, 256]), st.booleans())
def test_every_sum_is_in_one_launch_and_ranks_never_beside_z(want: Want, width: int, shuffled: bool) -> None:
    """Names come back once each, no launch has more than four, and tiles make blocks that divide the table's."""
    one = problem(width, shuffled=shuffled)
    functionals = asked.of_rows(want)
    launches = list(plan.launches(one, want, functionals))
    assert sorted(map(str, (name for _, names in launches for name in names))) == sorted(
        map(str, functionals)
    )
    assert [launch.z for launch, _ in launches].count(True) == want.z
    for launch, names in launches:
        assert len(launch.functionals) == len(names) <= plan.ALONE
        assert not (launch.z and launch.ranked)
        tiles, _ = plan.row_tiles(one, launch)
        if launch.table:
            assert tiles.keys == launch.table
            assert want.table % tiles.keys == 0


@pytest.mark.parametrize(
    ("arch", "width", "want", "tile"),
    [
        (80, 64, Want(), (128, 64)),
        (80, 128, Want(), (128, 32)),
        (80, 128, Want(z=False), (128, 64)),
        (90, 128, Want(), (128, 64)),
        (90, 128, Want(distance=True), (128, 32)),
        (89, 128, Want(), (64, 32)),
    ],
)
def test_tiles_go_by_architecture_width_and_what_is_summed(
    monkeypatch: pytest.MonkeyPatch, arch: int, width: int, want: Want, tile: tuple[int, int]
) -> None:
    """The table that the compiler's answers gave."""
    monkeypatch.setattr(plan, "architecture", lambda _device: arch)
    one = problem(width)
    launch, _ = next(plan.launches(one, want, asked.of_rows(want)))
    tiles, _ = plan.row_tiles(one, launch)
    assert (tiles.rows, tiles.keys) == tile


def test_wide_float32_is_refused_by_name() -> None:
    """Heads of float32 wider than 128 would spill: the refusal says so, and the 16-bit ones are taken."""
    scores = problem(256, torch.float32).scores
    with pytest.raises(ValueError, match="float32 heads of width 256"):
        plan.check(scores, Want())
    plan.check(problem(256).scores, Want())
