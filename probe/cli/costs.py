"""What an analysis would cost: the answer of ``--dry-run``."""

from probe.analysis import Forecast
from probe.cli.view import console, print_json


def show_forecast(found: Forecast, *, as_json: bool) -> None:
    """Print tokens, bytes and minutes, for a reader or as one JSON object."""
    if as_json:
        print_json({"schema": 1, "forecast": found.to_dict()})
        return
    out = console()
    out.print(f"{found.tokens} tokens in {found.prompts} prompts: about {minutes(found.seconds)}")
    model, peak, files = size(found.bytes_model), size(found.bytes_peak), size(found.bytes_output)
    out.print(f"model {model}, memory above it at most about {peak}, files {files}")
    out.print(f"from {found.note}")


def size(n_bytes: int | float) -> str:
    """Bytes as a reader takes them in.

    >>> size(512), size(1_500_000), size(2.4e9)
    ('512 B', '1.5 MB', '2.4 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000 or unit == "GB":
            break
        n_bytes /= 1000
    return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"


def minutes(seconds: float) -> str:
    """A duration as a reader takes it in.

    >>> minutes(12.3), minutes(150)
    ('12 s', '2.5 min')
    """
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
