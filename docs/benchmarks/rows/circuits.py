"""Every head of SmolLM2 patched at the last position of 16 pairs, against full forwards and against TransformerLens."""

import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a process of its own, for its peak memory
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
import torch
from peak import _resident
from subject import SMALL, load
from torch import Tensor

from probe.circuits import PairSet, activation_patching, attribution_patching, make_pairs
from probe.models import LoadedModel

COUNT, HEADS = 16, 9  # pairs; heads of a layer
FASTER_THAN_FORWARDS, FASTER_THAN_LENS = 3.0, 2.0


def measure(rounds: int) -> dict[str, object]:
    """One whole sweep; behind each of its layers one head is patched by a full forward and one by TransformerLens."""
    del rounds  # one sweep takes as many of the other sides as it has layers
    torch.set_num_threads(1)
    loaded = load(SMALL)
    pairs = pairs_of_one_length(loaded)
    full, lens = Full(pairs), Lens(pairs)
    sides: dict[str, Callable[[int, int], float]] = {"full": full.patched, "lens": lens.patched}
    for patched in sides.values():
        patched(0, 0)
    beside = Beside(sides)
    start = _now()
    (answer,) = activation_patching(loaded, pairs, "z", at="end", progress=beside).answers
    ours = [after - before for after, before in zip(_now(), start, strict=True)]
    ours = [
        whole - sum(taken[clock] for one in beside.taken.values() for taken in one)
        for clock, whole in enumerate(ours)
    ]
    total = answer.head_map.size
    length = len(pairs.pairs[0])
    lines = [
        {
            "what": f"{total} heads, {what} ÷ ours", "n": length, "budget": budget, "better": "high",
            **_ratio(beside.taken[side], total, ours),
        }
        for side, what, budget in (
            ("full", "one full forward per head", FASTER_THAN_FORWARDS),
            ("lens", "TransformerLens", FASTER_THAN_LENS),
        )
    ]  # fmt: skip
    attribution, correlation = _attribution(loaded, pairs, answer.head_map.values)
    lines.append(
        {
            "what": f"{total} heads, one full forward per head ÷ attribution_patching", "n": length, "budget": None,
            "better": "high", **_ratio(beside.taken["full"], total, attribution),
        }
    )  # fmt: skip
    cheap = attribution[0] / statistics.median(one[0] for one in beside.taken["full"])
    notes = (
        f"ours is the whole call: both prompts of {COUNT} pairs of {length} tokens, the record of the clean run, "
        f"{total} patched runs; {ours[0]:.1f} s of CPU time",
        f"the other sides patched {len(beside.taken['full'])} heads, one of every layer behind each layer of ours, and "
        f"their median was taken {total} times; TransformerLens is its generic_activation_patch through a bridge on "
        "its own copy of the weights, the record of its clean run not counted",
        f"largest difference of the patched logit differences from ours: {_error(answer, full, beside, 'full'):.1e} by "
        f"full forwards, {_error(answer, full, beside, 'lens'):.1e} by TransformerLens",
        f"attribution (two forwards and one backward for all heads, and the forwards that check the task) cost "
        f"{cheap:.1f} full forwards; Pearson correlation with patching over {total} heads: {correlation:.2f}",
        "peak memory above the loaded model: "
        + ", ".join(f"{side} {_peak(side):.0f} MB" for side in ("ours", "full", "lens", "attribution")),
    )
    title = f"SmolLM2-135M, activation patching of every head (z, last position, {COUNT} pairs of IOI)"
    return {"title": title, "lines": lines, "notes": notes}


def pairs_of_one_length(loaded: LoadedModel) -> PairSet:
    """Pairs that a single batch holds: what suits a tool without batches of its own best."""
    made = make_pairs("ioi", loaded.tokenizer, count=8 * COUNT)
    lengths = [len(pair) for pair in made]
    most = statistics.mode(lengths)
    kept = [pair for pair in made if len(pair) == most][:COUNT]
    return PairSet("ioi", tuple(kept))


def ids(pairs: PairSet, side: str) -> Tensor:
    """The tokens of one side."""
    return torch.tensor([getattr(pair, side).tokens for pair in pairs])


def difference(pairs: PairSet) -> Callable[[Tensor], Tensor]:
    """Mean over pairs of the right logit minus the wrong one, at the last position."""
    rows = torch.arange(len(pairs))
    right, wrong = (torch.tensor([getattr(pair, which)[0] for pair in pairs]) for which in ("right", "wrong"))
    return lambda logits: (logits[rows, -1, right] - logits[rows, -1, wrong]).mean()


class Full:
    """One native forward over the corrupt prompts per head, its z replaced where W_O takes it."""

    def __init__(self, pairs: PairSet) -> None:
        self.model = load(SMALL).model  # its own copy: ours is under a session while it is patched
        self.corrupt, self.measure = ids(pairs, "corrupt"), difference(pairs)
        self.outputs = [block.self_attn.o_proj for block in self.model.model.layers]
        self.clean: list[Tensor] = []
        handles = [
            one.register_forward_pre_hook(lambda _, given: self.clean.append(given[0][:, -1].clone()))
            for one in self.outputs
        ]
        clean = self._forward(ids(pairs, "clean"))
        for handle in handles:
            handle.remove()
        self.ends = (float(self.measure(self._forward(self.corrupt))), float(self.measure(clean)))

    def _forward(self, tokens: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = self.model(tokens, use_cache=False, logits_to_keep=1).logits
        return logits

    def patched(self, layer: int, head: int) -> float:
        """The mean logit difference with the clean z of one head at the last position."""
        width = self.clean[layer].shape[-1] // HEADS
        part = slice(head * width, (head + 1) * width)

        def put(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            z = given[0].clone()
            z[:, -1, part] = self.clean[layer][:, part]
            return (z, *given[1:])

        handle = self.outputs[layer].register_forward_pre_hook(put)
        try:
            return float(self.measure(self._forward(self.corrupt)))
        finally:
            handle.remove()


class Lens:
    """TransformerLens's patching of one head at the last position."""

    def __init__(self, pairs: PairSet) -> None:
        from transformer_lens import patching
        from transformer_lens.model_bridge import TransformerBridge

        self.patching = patching
        own = load(SMALL)
        self.bridge = TransformerBridge.boot_transformers(SMALL, hf_model=own.model, tokenizer=own.tokenizer)
        self.corrupt, self.measure = ids(pairs, "corrupt"), difference(pairs)
        with torch.inference_mode():
            _, self.cache = self.bridge.run_with_cache(
                ids(pairs, "clean"), names_filter=lambda name: name.endswith("hook_z")
            )

    def patched(self, layer: int, head: int) -> float:
        """The mean logit difference with the clean z of one head at the last position."""
        where = pd.DataFrame({"layer": [layer], "pos": [self.corrupt.shape[1] - 1], "head": [head]})
        setter = self.patching.layer_pos_head_vector_patch_setter
        with torch.inference_mode():
            found = self.patching.generic_activation_patch(
                self.bridge, self.corrupt, self.cache, self.measure, setter, "z", index_df=where
            )
        return float(found[0])


@dataclass
class Beside:
    """Progress of a sweep: behind each layer the other sides patch one head, so that load hits all of them."""

    sides: dict[str, Callable[[int, int], float]]
    taken: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # CPU and wall seconds
    found: dict[str, dict[tuple[int, int], float]] = field(default_factory=dict)

    def __call__(self, done: int, total: int, what: str) -> None:
        """A layer begins, or the sweep ends."""
        if done >= total:
            return
        layer, head = done, done % HEADS
        for side, patched in self.sides.items():
            before = _now()
            found = patched(layer, head)
            after = _now()
            self.taken.setdefault(side, []).append((after[0] - before[0], after[1] - before[1]))
            self.found.setdefault(side, {})[layer, head] = found


def _now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def _ratio(taken: list[tuple[float, float]], total: int, ours: list[float]) -> dict[str, float | int]:
    cpu, wall = ([one[clock] for one in taken] for clock in (0, 1))
    return {
        "cpu_ratio": total * statistics.median(cpu) / ours[0],
        "wall_ratio": total * statistics.median(wall) / ours[1],
        "lowest": total * min(cpu) / ours[0],
        "highest": total * max(cpu) / ours[0],
        "over_s": total * statistics.median(wall),
        "under_s": ours[1],
        "rounds": 1,
    }


def _error(answer: Any, full: Full, beside: Beside, side: str) -> float:
    """The largest difference from ours, in logits."""
    corrupt, clean = full.ends
    ours = corrupt + answer.head_map * (clean - corrupt)
    found = beside.found[side].items()
    return max(abs(float(ours.sel(layer=layer, head=head)) - value) for (layer, head), value in found)


def _attribution(loaded: LoadedModel, pairs: PairSet, patched: np.ndarray) -> tuple[list[float], float]:
    """CPU and wall seconds of attribution for all heads, and its correlation with patching."""
    attribution_patching(loaded, pairs, "z", at="end")
    start = _now()
    (answer,) = attribution_patching(loaded, pairs, "z", at="end").answers
    seconds = [after - before for after, before in zip(_now(), start, strict=True)]
    return seconds, float(np.corrcoef(answer.head_map.values.ravel(), patched.ravel())[0, 1])


def _peak(side: str) -> float:
    """Peak MB above the loaded model, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, side], check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _peak_here(side: str) -> float:
    torch.set_num_threads(1)
    loaded = load(SMALL)
    pairs = pairs_of_one_length(loaded)
    other = Full(pairs) if side == "full" else Lens(pairs) if side == "lens" else None
    few = PairSet("ioi", pairs.pairs[:1])
    if other is None:  # first use allocates what every later use shares
        activation_patching(loaded, few, "z", at="end", layers=[29], min_accuracy=0.0)
    else:
        other.patched(0, 0)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _resident("VmRSS")
    if other is not None:
        for layer in range(3):
            other.patched(layer, layer)
    elif side == "ours":
        activation_patching(loaded, pairs, "z", at="end")
    else:
        attribution_patching(loaded, pairs, "z", at="end")
    return _resident("VmHWM") - before


if __name__ == "__main__":
    print(json.dumps(_peak_here(sys.argv[1])))
