"""Replaying a claim: stopped anywhere it goes on, smoke checks stay apart, and wrong calls run nothing."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.errors import ReportError, UnknownNameError, UsageError
from probe.models import LoadedModel, as_loaded
from probe.replay import Claim, Claims, Finding, Listed, Row, Work, replay
from probe.replay.files import default_folder, result_path, unfinished_path
from probe.replay.intervals import mean
from probe.replay.stored import Stored, stored_in

PROMPTS = 6
SAID = SimpleNamespace(
    measured=[], stops=None
)  # what the fake claim measured, and after how many it is killed


def measure(work: Work) -> Finding:
    """A claim of six prompts whose numbers depend on the seed."""
    found = [work.keep(f"prompt {n}", _one, n, work.seed) for n in work.few(range(PROMPTS))]
    return Finding(
        sum(found) > 0, f"{sum(found)}", rows=(Row("number", mean(found), paper="7"),), found=("Much.",)
    )


def _one(number: int, seed: int) -> float:
    if SAID.stops is not None and len(SAID.measured) == SAID.stops:
        raise KeyboardInterrupt
    SAID.measured.append(number)
    return number / 7 + seed


CLAIM = Claim(
    claimed="six is a lot.", data="made up.", measure=measure, how=("Counted.",), settings={"n": PROMPTS}
)
TABLE = Claims(
    {
        "fake": Listed(f"{__name__}:CLAIM", "Six is a lot", "Nobody 2026 (arXiv:0000.00000)", 0.1),
        "other": Listed(f"{__name__}:CLAIM", "Six is few", "Nobody 2026 (arXiv:0000.00000)", 0.1),
    }
)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    """Nothing was measured, and nothing stops."""
    SAID.measured, SAID.stops = [], None


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """A small model; the fake claim asks nothing of it."""
    return as_loaded((small_models.llama(), small_models.letters()))


def _run(loaded: LoadedModel, out: Path, **changes: object) -> Stored:
    return replay("fake", [loaded], out=out, claims=TABLE, **changes)[0]


def test_a_result_is_stored_with_all_its_numbers(loaded: LoadedModel, tmp_path: Path) -> None:
    """File, page and index are there; the file gives the result back; nothing unfinished is left."""
    result = _run(loaded, tmp_path, seed=2)
    assert Stored.read(result_path(tmp_path, "fake", loaded.name)) == result
    assert result.measured == {f"prompt {n}": n / 7 + 2 for n in range(PROMPTS)}
    assert not unfinished_path(tmp_path, "fake", loaded.name).exists()
    page = (tmp_path / "fake.md").read_text()
    for part in (
        "# Six is a lot",
        "arXiv:0000.00000",
        "six is a lot.",
        "made up.",
        "| number | 7 | 2.36",
        "seed 2",
    ):
        assert part in page
    assert "[Six is a lot](fake.md)" in (tmp_path / "README.md").read_text()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
@given(stops=st.lists(st.integers(0, PROMPTS - 1), min_size=1, max_size=3))
def test_a_kill_loses_and_repeats_nothing(
    loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory, stops: list[int]
) -> None:
    """Stopped after any number of prompts, several times, each prompt is measured once; the result is the same."""
    out = tmp_path_factory.mktemp("claims")
    SAID.measured = []
    for stop in sorted(stops):
        SAID.stops = stop
        with pytest.raises(KeyboardInterrupt):
            _run(loaded, out)
        assert not result_path(out, "fake", loaded.name).exists()
    SAID.stops = None
    result = _run(loaded, out)
    assert SAID.measured == list(range(PROMPTS))
    whole = _run(loaded, tmp_path_factory.mktemp("whole"))
    assert result == whole


def test_another_seed_is_measured_anew(loaded: LoadedModel, tmp_path: Path) -> None:
    """What a stopped run measured with one seed is not taken for another."""
    SAID.stops = 3
    with pytest.raises(KeyboardInterrupt):
        _run(loaded, tmp_path)
    SAID.stops = None
    assert _run(loaded, tmp_path, seed=1).measured["prompt 0"] == 1


def test_kept_numbers_are_told_anew(loaded: LoadedModel, tmp_path: Path) -> None:
    """With --kept nothing is measured again, and day and machine stay those of the measurement."""
    first = _run(loaded, tmp_path)
    path = result_path(tmp_path, "fake", loaded.name)
    entry = json.loads(path.read_text())
    entry["machine"]["day"] = "2020-01-01"
    entry["finding"]["brief"] = "old words"
    path.write_text(json.dumps(entry))
    SAID.measured = []
    again = _run(loaded, tmp_path, kept=True)
    assert SAID.measured == []
    assert again.finding == first.finding
    assert again.machine["day"] == "2020-01-01"
    assert len(_run(loaded, tmp_path, kept=True, seed=5).measured) == len(SAID.measured) == PROMPTS


def test_a_smoke_check_writes_nothing_unless_it_is_told_where(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a folder it leaves no trace; in one of its own it says what it is."""
    monkeypatch.setenv("PROBE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    result = replay("fake", [loaded], claims=TABLE, small=True)[0]
    assert len(result.measured) == 2
    assert not (tmp_path / "home").exists()
    _run(loaded, tmp_path / "small", small=True)
    assert [one.small for one in stored_in(tmp_path / "small", "fake")] == [True]


def test_smoke_checks_and_real_results_do_not_mix(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either way round, and not into the default folder at all."""
    _run(loaded, tmp_path / "real")
    before = {path: path.read_bytes() for path in (tmp_path / "real").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="a folder of real results"):
        _run(loaded, tmp_path / "real", small=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "real").rglob("*") if path.is_file()}
    _run(loaded, tmp_path / "small", small=True)
    with pytest.raises(UsageError, match="a folder of smoke checks"):
        _run(loaded, tmp_path / "small")
    monkeypatch.setenv("PROBE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--out"):
        _run(loaded, default_folder(), small=True)


def test_an_unknown_claim_runs_nothing(loaded: LoadedModel, tmp_path: Path) -> None:
    """The nearest name is offered before the known one is measured."""
    with pytest.raises(UnknownNameError, match="did you mean 'fake'"):
        replay(["fake", "fakee"], [loaded], out=tmp_path, claims=TABLE)
    assert SAID.measured == []
    assert list(tmp_path.iterdir()) == []


def test_a_spoilt_result_is_named(loaded: LoadedModel, tmp_path: Path) -> None:
    """A file that is no result says so, with what to do."""
    _run(loaded, tmp_path)
    result_path(tmp_path, "fake", loaded.name).write_text("{")
    with pytest.raises(ReportError, match="delete it and replay"):
        stored_in(tmp_path, "fake")


def test_results_of_two_claims_share_one_index(loaded: LoadedModel, tmp_path: Path) -> None:
    """The index keeps what an earlier run gave, in the order of the table."""
    replay("other", [loaded], out=tmp_path, claims=TABLE)
    _run(loaded, tmp_path)
    index = (tmp_path / "README.md").read_text()
    assert index.index("Six is a lot") < index.index("Six is few")


def test_the_default_folder_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/claims where the current folder is a checkout, else below PROBE_HOME."""
    monkeypatch.setenv("PROBE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert default_folder() == tmp_path / "home" / "claims"
    monkeypatch.chdir(Path(__file__).parents[3])
    assert default_folder() == Path(__file__).parents[3] / "docs" / "claims"
