"""The heads that count most, as bars with their intervals over prompts."""

from html import escape

import numpy as np
import plotly.graph_objects as go

from probe.errors import ReportError
from probe.plots.theme import INK, TEMPLATE, signed
from probe.report.answer import Answer
from probe.report.intervals import bootstrap
from probe.report.ranking import head_axis, head_name, ranked

_PIXELS = 22  # of one bar


def ranked_heads(answer: Answer, *, n: int = 20, level: float = 0.95, title: str | None = None) -> go.Figure:
    """Draw the `n` heads (or layers) of the largest size, whatever its sign, the largest on top.

    Args:
        answer: With a head map; where it has values per prompt, of at least two, each bar has its bootstrap interval.
        n: Most bars.
        level: Of the intervals, between 0 and 1.
        title: Above the figure; the answer's spec where there is none.

    Raises:
        ReportError: no bar is asked, or no head has a defined value.
    """
    axis = head_axis(answer.head_map)
    if n < 1:
        raise ReportError(f"the first {n} heads were asked; ask for at least 1")
    frame = ranked(answer)
    frame = frame[np.isfinite(frame["score"])]
    if axis == "model" or not len(frame):
        raise ReportError(f"heads of {answer.spec!r} were asked; none has a defined value: choose another")
    frame = frame.iloc[(-frame["score"].abs()).argsort(kind="stable")].head(n)
    places = [(int(layer), int(head)) for layer, head, _ in frame.itertuples(index=False)]
    scores = frame["score"].to_numpy(np.float64)
    bars = go.Bar(
        x=scores.tolist(),
        y=[head_name(answer.tower, layer, head, axis) for layer, head in places],
        orientation="h",
        marker={"color": [signed(score) for score in scores.tolist()]},
        hovertemplate="%{y}: %{x:.4g}<extra></extra>",
        error_x=_intervals(answer, level, (axis, places, scores)),
    )
    figure = go.Figure(bars)
    figure.update_layout(
        template=TEMPLATE,
        title={"text": escape(answer.spec if title is None else title)},
        height=140 + _PIXELS * len(places),
        plot_bgcolor="#ffffff",
        xaxis={"title": {"text": escape(answer.unit)}, "zeroline": True, "zerolinecolor": INK},
        yaxis={"type": "category", "autorange": "reversed"},
    )
    return figure


def _intervals(
    answer: Answer, level: float, shown: tuple[str, list[tuple[int, int]], np.ndarray]
) -> dict[str, object] | None:
    """What plotly calls error bars: how far the bounds lie above and below each score."""
    if answer.by_prompt is None or answer.by_prompt.sizes["prompt"] < 2:
        return None
    axis, places, scores = shown
    bounds = bootstrap(answer, level)
    where = [{"layer": layer} if axis == "layer" else {"layer": layer, axis: head} for layer, head in places]
    low, high = (
        np.array([float(bounds.sel({"bound": end, **one})) for one in where]) for end in ("low", "high")
    )
    return {
        "type": "data",
        "symmetric": False,
        "array": np.maximum(high - scores, 0).tolist(),
        "arrayminus": np.maximum(scores - low, 0).tolist(),
        "color": INK,
        "thickness": 1,
    }
