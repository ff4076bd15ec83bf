"""pyarrow, which reads and writes Parquet: an extra of its own."""

from types import ModuleType

from probe.errors import UsageError


def parquet() -> ModuleType:
    """The module ``pyarrow.parquet``; raises `UsageError` where pyarrow is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "documents were to be scored; scores are Parquet files, and pyarrow is not installed: "
            "pip install 'attention-probe[data]'"
        ) from error
    module: ModuleType = pyarrow.parquet
    return module


def arrow() -> ModuleType:
    """The module ``pyarrow``; raises `UsageError` where it is not installed."""
    parquet()
    import pyarrow

    module: ModuleType = pyarrow
    return module
