"""Experiments: they bring their own prompts, run the model, and answer in the same report as the metrics."""

from collections.abc import Mapping

from probe.experiments.base import Experiment
from probe.experiments.carve import GENERAL_INSTRUCTION, Carve, Carved
from probe.experiments.retrieval import Retrieval

EXPERIMENTS: Mapping[str, type[Experiment]] = {"retrieval": Retrieval}

__all__ = ["EXPERIMENTS", "GENERAL_INSTRUCTION", "Carve", "Carved", "Experiment", "Retrieval"]
