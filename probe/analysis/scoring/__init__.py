"""``probe.score``: documents scored by what masking heads costs them, as streams of Parquet."""

from probe.analysis.scoring.options import ScoreOptions
from probe.analysis.scoring.score import score
from probe.analysis.scoring.summary import Scores

__all__ = ["ScoreOptions", "Scores", "score"]
