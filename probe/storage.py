"""Where probe keeps things: fetched models in the user's cache, runs in the user's data folder."""

import os
from pathlib import Path

import platformdirs

APP = "attention-probe"


def home() -> Path:
    """The folder that runs are written under: ``$PROBE_HOME``, or the user's data folder. Not created here."""
    override = os.environ.get("PROBE_HOME")
    return Path(override).expanduser() if override else Path(platformdirs.user_data_dir(APP))


def cache_dir() -> Path:
    """The folder of fetched models: ``$PROBE_HOME/models``, or the user's cache folder. Not created here."""
    override = os.environ.get("PROBE_HOME")
    root = Path(override).expanduser() if override else Path(platformdirs.user_cache_dir(APP))
    return root / "models"
