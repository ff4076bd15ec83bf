"""Shapes as types, in glossary words: the annotations of probe's tensors. Imports torch."""

from jaxtyping import Float, Int
from torch import Tensor

Query = Float[Tensor, "batch head query_pos d_qk"]
Value = Float[Tensor, "batch kv_head key_pos d_v"]
Z = Float[Tensor, "batch head query_pos d_v"]
Pattern = Float[Tensor, "batch head query_pos key_pos"]
RowStat = Float[Tensor, "batch head query_pos"]
Tokens = Int[Tensor, "batch token"]
