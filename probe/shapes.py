"""Shapes as types, in glossary words: the annotations of probe's tensors. Imports torch."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Query = Float[Tensor, "batch head query_pos d_qk"]
Key = Float[Tensor, "batch kv_head key_pos d_qk"]
Value = Float[Tensor, "batch kv_head key_pos d_v"]
Z = Float[Tensor, "batch head query_pos d_v"]
Pattern = Float[Tensor, "batch head query_pos key_pos"]
RowStat = Float[Tensor, "batch head query_pos"]
KeyStat = Float[Tensor, "batch head key_pos"]
RealQueries = Bool[Tensor, "batch query_pos"]
RealKeys = Bool[Tensor, "batch key_pos"]
Tokens = Int[Tensor, "batch token"]
