"""Numbers per patch of a vision tower, over a picture that the reader has; the report itself keeps none."""

import base64
import binascii
from collections.abc import Mapping

import dash_mantine_components as dmc
import plotly.graph_objects as go
import xarray as xr
from dash import dcc, html

from probe.errors import ReportError, UsageError
from probe.plots import patch_map
from probe.report import Report
from probe.terms import HeadId

LARGEST = 2 * 2**20  # bytes of a picture
_KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}


def over_image(head: HeadId) -> list[object]:
    """The place of the map over an image; nothing but for heads of a vision tower."""
    if head.tower != "vision":
        return []
    ids = {what: {"patches": head.tower, "what": what} for what in ("picture", "said", "figure")}
    choose = dmc.Button("Lay it over the image", variant="default", size="xs")
    accept = "image/png,image/jpeg"
    return [
        dmc.Title("Over the image", order=2, size="h4"),
        dcc.Upload(choose, id=ids["picture"], accept=accept, max_size=LARGEST, multiple=False),
        html.Div(id=ids["said"]),
        html.Div(id=ids["figure"]),
    ]


def patches(report: Report, head: HeadId, fields: Mapping[str, str], image: str | None) -> go.Figure:
    """A token map of the head as a square of patches; raises `ReportError` where the report has none."""
    number = int(fields.get("prompt") or 0) if (fields.get("prompt") or "0").isdecimal() else 0
    found = [
        (key, answer)
        for key, answer in zip(report.keys(), report.answers, strict=True)
        if answer.tower == head.tower
        and number in answer.token_maps
        and "head" in answer.token_maps[number].dims
    ]
    if not found:
        raise ReportError(
            "numbers per patch were asked; no metric of the report has them: analyze with received"
        )
    wanted = [one for one in found if one[0] == fields.get("by")]
    key, answer = (wanted or found)[0]
    row: xr.DataArray = answer.token_maps[number].sel(layer=head.layer).isel(head=head.head)
    return patch_map(
        row.drop_vars(["layer", "head"], errors="ignore"),
        image=image,
        title=f"{key} of {head}",
        unit=answer.unit,
    )


def picture(contents: str | None) -> str | None:
    """An uploaded picture as a ``data:`` address of its own kind; raises `UsageError` where it is no PNG or JPEG."""
    if not contents:
        return None
    try:
        raw = base64.b64decode(contents.partition(",")[2], validate=True)
    except binascii.Error as error:
        raise UsageError("a picture was uploaded; it did not arrive whole: try again") from error
    kind = next((name for start, name in _KINDS.items() if raw.startswith(start)), None)
    if kind is None or len(raw) > LARGEST:
        raise UsageError(
            f"a file of {len(raw):,} bytes was uploaded; a PNG or JPEG of at most {LARGEST:,} is shown"
        )
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"
