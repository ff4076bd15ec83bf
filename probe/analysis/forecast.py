"""``probe.forecast``: what an analysis will cost, before it is run (``--dry-run``)."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from probe.analysis.choice import choose
from probe.analysis.forward import Runner
from probe.analysis.inputs import Inputs, Item
from probe.analysis.keep_map import CELLS
from probe.analysis.kept_size import kept_bytes, seen_shapes
from probe.analysis.options import AnalyzeOptions
from probe.analysis.plan import Plan, prepare
from probe.analysis.shapes_seen import LayerShape
from probe.analysis.sweep import Sweep

_SHORT, _LONG = 256, 1024  # tokens of the two timed forwards
_BLOCK_BYTES = 6 * 2**23  # the kernels' scratch: a handful of blocks of at most 8 MB each


@dataclass(frozen=True)
class Forecast:
    """The cost of an analysis.

    Attributes:
        tokens: Real tokens over all prompts.
        prompts: Sequences.
        bytes_model: Weights and buffers in memory.
        bytes_peak: Memory above the model while the longest prompts run (formula; see `note`).
        bytes_output: Files of the report, kept maps or queries and keys included.
        seconds: Time of all forwards; experiments, which bring their own prompts, are not counted.
        note: What the numbers rest on.
    """

    tokens: int
    prompts: int
    bytes_model: int
    bytes_peak: int
    bytes_output: int
    seconds: float
    note: str

    def to_dict(self) -> dict[str, Any]:
        """The forecast as plain values."""
        return asdict(self)


def forecast(
    model: object,
    prompts: object = None,
    metrics: object = None,
    options: AnalyzeOptions | None = None,
    **changes: Any,
) -> Forecast:
    """Say what `analyze` would cost, from two short timed forwards and the shapes they show.

    Args:
        model: As for `analyze`.
        prompts: As for `analyze`.
        metrics: As for `analyze`.
        options: As for `analyze`.
        **changes: As for `analyze`.

    Raises:
        UsageError: whatever `analyze` would refuse.
    """
    plan = prepare(model, prompts, metrics, (), AnalyzeOptions.of(options, changes))
    runner = Runner(plan.loaded)
    longest = max(plan.inputs.items, key=lambda item: item.n_tokens)
    shapes = seen_shapes(runner, longest)
    seconds, how = _seconds(plan, runner, longest, metrics)
    experiments = [one.spec for one in plan.choice.experiments]
    left = f"; {', '.join(experiments)} not counted" if experiments else ""
    models = 1 if plan.options.baseline is None else 2  # the untrained one runs the same prompts
    return Forecast(
        tokens=plan.inputs.n_tokens,
        prompts=plan.inputs.n_prompts,
        bytes_model=models * _model_bytes(plan.loaded.model),
        bytes_peak=_peak_bytes(plan, shapes, longest.n_tokens),
        bytes_output=_output_bytes(plan, shapes),
        seconds=models * seconds,
        note=f"{how}; peak from the widths of one layer, float32 statistics and one position of logits{left}",
    )


def _seconds(plan: Plan, runner: Runner, longest: Item, metrics: object) -> tuple[float, str]:
    """t(n) = a·n + b·n² through two timed forwards, summed over the prompts."""
    if longest.prompt is None:
        one = _timed(plan, runner, longest, metrics)
        return one * len(plan.inputs.items), "time of the largest input, for each"
    n = longest.n_tokens
    short, long = min(_SHORT, n), min(_LONG, n)
    _timed(
        plan, runner, _cut(longest, min(64, n)), metrics
    )  # the first forward pays for what is loaded lazily
    at_short = _timed(plan, runner, _cut(longest, short), metrics)
    if long == short:
        linear, square = at_short / short, 0.0
    else:
        at_long = _timed(plan, runner, _cut(longest, long), metrics)
        square = max(0.0, (at_long / long - at_short / short) / (long - short))
        linear = max(0.0, at_long / long - square * long)
    lengths = [item.n_tokens for item in plan.inputs.items]
    total = sum(linear * length + square * length**2 for length in lengths)
    return total, f"a·n + b·n² seconds through timed forwards of {short} and {long} tokens"


def _timed(plan: Plan, runner: Runner, item: Item, metrics: object) -> float:
    options = AnalyzeOptions(mode=plan.options.mode, kernels=plan.options.kernels)
    sweep = Sweep(runner, Inputs((item,)), choose(metrics).metrics, (), options)
    _settle(plan)
    start = time.perf_counter()
    sweep.run(None)
    _settle(plan)
    return time.perf_counter() - start


def _settle(plan: Plan) -> None:
    if plan.loaded.device.type == "cuda":
        torch.cuda.synchronize(plan.loaded.device)


def _cut(item: Item, count: int) -> Item:
    return item if item.prompt is None else Item(item.prompt.truncate(count))


def _model_bytes(model: nn.Module) -> int:
    held = {id(t): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}
    return sum(held.values())


def _peak_bytes(plan: Plan, shapes: Sequence[LayerShape], n_tokens: int) -> int:
    """Residual stream and its copies, one layer's q, k, v and MLP, row statistics, scratch, one row of logits."""
    config = getattr(plan.loaded.model, "config", None)
    text = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    width = next(plan.loaded.model.parameters()).element_size()
    d_model = _number(text, "hidden_size", 0)
    d_mlp = _number(text, "intermediate_size", 4 * d_model)
    vocabulary = _number(text, "vocab_size", 0)
    attention = max(
        (s.n_heads * (s.d_qk + 2 * s.d_v) + s.n_kv_heads * (s.d_qk + s.d_v) for s in shapes), default=0
    )
    layer = 4 * d_model + max(attention, 3 * d_mlp)
    rows = 8 * 4 * max((s.n_heads for s in shapes), default=0)
    prompts = min(plan.options.batch_size, plan.inputs.n_prompts)
    maps = sum(s.n_heads for s in shapes) * CELLS**2 * 4 * prompts if plan.options.keep != "none" else 0
    tokens = min(n_tokens, plan.options.chunk or n_tokens) * prompts
    cache = 0
    if plan.options.chunk is not None:
        cache = n_tokens * width * sum(s.n_kv_heads * (s.d_qk + s.d_v) for s in shapes)
    return tokens * (layer * width + rows) + _BLOCK_BYTES + vocabulary * width * prompts + maps + cache


def _output_bytes(plan: Plan, shapes: Sequence[LayerShape]) -> int:
    heads = sum(shape.n_heads for shape in shapes)
    lengths = [item.n_tokens for item in plan.inputs.items]
    each = heads * 8 * (1 + (plan.inputs.n_prompts if plan.options.by_prompt else 0))
    total = len(plan.choice.specs) * (each + 2000)
    total += sum(heads * 4 * sum(lengths) for metric in plan.choice.metrics if metric.info.per_token)
    total += 30 * sum(lengths) if plan.options.text else 0
    if plan.options.keep == "qk":
        total += kept_bytes(shapes, plan.inputs)
    if plan.options.keep != "none":
        total += sum(heads * min(n, CELLS) ** 2 * 2 for n in lengths)
    return total


def _number(config: object, name: str, default: int) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) else default
