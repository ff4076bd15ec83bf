"""What a device could do at most: peak rates of matrix products, and the operations of attention."""

import torch

# Dense peaks of tensor cores in TFLOP/s from the makers' data sheets, by a word of the device's name and by dtype.
_PEAKS: dict[str, dict[torch.dtype, float]] = {
    "H100 PCIe": {torch.float16: 756.0, torch.bfloat16: 756.0, torch.float32: 378.0},
    "H100": {torch.float16: 989.0, torch.bfloat16: 989.0, torch.float32: 494.0},
    "H200": {torch.float16: 989.0, torch.bfloat16: 989.0, torch.float32: 494.0},
    "A100": {torch.float16: 312.0, torch.bfloat16: 312.0, torch.float32: 156.0},
}


def peak(name: str, dtype: torch.dtype) -> float | None:
    """TFLOP/s of a device by its name; None where it is not known. Those of float32 are of tf32."""
    for word, peaks in _PEAKS.items():
        if all(part in name for part in word.split()):
            return peaks.get(dtype)
    return None


def operations(n: int, heads: int, width: int) -> float:
    """Floating-point operations of causal attention: 2·n²·d for the scores and z, half of the square each."""
    return 2.0 * n * n * width * heads
