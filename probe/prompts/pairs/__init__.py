"""Clean and corrupt prompts of equal length, whose answers differ: what circuits are found with."""

from probe.prompts.pairs.files import read_pairs
from probe.prompts.pairs.pair import Pair, PairSet
from probe.prompts.pairs.parts import Part, part_of
from probe.prompts.pairs.table import PAIR_TASKS, PairTask, make_pairs

__all__ = ["PAIR_TASKS", "Pair", "PairSet", "PairTask", "Part", "make_pairs", "part_of", "read_pairs"]
