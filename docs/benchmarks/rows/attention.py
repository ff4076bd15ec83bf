"""The attention operation alone with its statistics ÷ PyTorch's own flash attention on the CPU."""

import torch
from probe_kernels import attend
from probe_kernels.bench import Shape, gate, problem
from probe_kernels.types import Layout, Scores, Want
from timing import compare, interleave
from torch.nn.functional import scaled_dot_product_attention

LENGTHS = (1024, 2048, 4096, 8192)
HEADS, KV_HEADS, WIDTH = 9, 3, 64
BUDGET = 1.5
WANT = Want(lse=True, entropy=True, column=True, first=(1,), distance=True)


def measure(rounds: int) -> dict[str, object]:
    """SmolLM2's head shape on random q, k, v; PyTorch is given keys already repeated over the group."""
    gate(Shape(HEADS, KV_HEADS, WIDTH))  # a wrong kernel is not timed
    lines = []
    for length in LENGTHS:
        scores, layout = problem(length, Shape(HEADS, KV_HEADS, WIDTH))
        group = HEADS // KV_HEADS
        repeated = [one.repeat_interleave(group, dim=1) for one in (scores.key, scores.value)]

        def native(
            query: torch.Tensor = scores.query, repeated: list[torch.Tensor] = repeated
        ) -> torch.Tensor:
            return scaled_dot_product_attention(query, *repeated, is_causal=True)

        def ours(scores: Scores = scores, layout: Layout = layout) -> torch.Tensor:
            return attend(scores, layout, WANT, backend="torch").z

        with torch.inference_mode():
            timed = interleave({"native": native, "ours": ours}, rounds)
        what = "z, lse, entropy, column mass, sink, distance ÷ SDPA"
        lines.append(
            {"what": what, "n": length, "budget": BUDGET, "better": "low", **compare(timed, "ours", "native")}
        )
    return {"title": f"Attention op, {HEADS} heads, d {WIDTH}, causal ÷ SDPA", "lines": lines}
