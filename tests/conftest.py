"""What every test runs under: no hub, one thread per worker, fixed seeds, and the real model as a fixture."""

import os

# Before torch or transformers are imported anywhere. One thread: workers would fight over few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "disabled")
# Triton settles when it is imported whether kernels are interpreted. Set it to 0 to test on a GPU instead.
os.environ.setdefault("TRITON_INTERPRET", "1")

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest

if TYPE_CHECKING:
    from probe.models import LoadedModel


# The judge of a change looks at the same examples each time, so that a red run can be repeated; all others explore.
hypothesis.settings.register_profile("judge", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile("judge" if os.environ.get("CI") else "explore")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Torch and NumPy start from the same seed in every test, whatever ran before."""
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _environment_kept() -> Iterator[None]:
    """No test leaves an environment variable behind."""
    before = dict(os.environ)
    yield
    changed = {name for name in before.keys() | os.environ.keys() if before.get(name) != os.environ.get(name)}
    changed.discard("PYTEST_CURRENT_TEST")
    for name in changed:
        os.environ.pop(name, None)
        if name in before:
            os.environ[name] = before[name]


def _known_model(name: str) -> "LoadedModel":
    """A known model, fetched on first use; skipped without a network unless PROBE_TEST_MODELS=require."""
    import probe

    try:
        return probe.load(name)
    except probe.ProbeError as error:
        if os.environ.get("PROBE_TEST_MODELS") == "require":
            raise
        pytest.skip(f"{name} is neither in the cache nor downloadable: {error}")


@pytest.fixture(scope="session")
def smollm2() -> "LoadedModel":
    """SmolLM2-135M-Instruct, float32 on the CPU: real weights for claims that tiny models cannot carry."""
    return _known_model("smollm2-135m")


@pytest.fixture(scope="session")
def gemma3() -> "LoadedModel":
    """Gemma-3-270M: sliding windows, query-key norms and a large vocabulary on real weights."""
    return _known_model("gemma3-270m")


@pytest.fixture(scope="session")
def minilm() -> "LoadedModel":
    """all-MiniLM-L6-v2: a bidirectional encoder on real weights."""
    return _known_model("minilm-l6")
