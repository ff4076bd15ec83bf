"""Asking the Hugging Face hub once and quickly, before transformers asks it many times and slowly."""

from dataclasses import dataclass

from probe.errors import ModelError, UnknownNameError

_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class HubModel:
    """A hub id that can be loaded now: its commit, and whether only the local copy may be used."""

    hub_id: str
    revision: str | None
    local: bool


def find_on_hub(hub_id: str) -> HubModel:
    """The newest commit of a hub id; without a network (or with ``HF_HUB_OFFLINE``) the local copy.

    Raises:
        UnknownNameError: the hub answered that there is no such model.
        ModelError: the model is gated, or the hub cannot be reached and there is no local copy.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        return _local(hub_id, "HF_HUB_OFFLINE is set")
    try:
        info = HfApi().model_info(hub_id, timeout=_TIMEOUT)
    except RepositoryNotFoundError as error:
        if is_cached(hub_id):
            return HubModel(hub_id, None, local=True)
        raise UnknownNameError(
            f"model {hub_id!r} was asked; the hub has none of that name (or it is private and you are not logged "
            "in): check the spelling, or run hf auth login"
        ) from error
    except GatedRepoError as error:
        raise ModelError(
            f"model {hub_id!r} is gated: accept its terms at huggingface.co/{hub_id} and run hf auth login"
        ) from error
    except (_transport_error(), OfflineModeIsEnabled, OSError) as error:
        return _local(hub_id, f"the hub cannot be reached ({type(error).__name__})")
    return HubModel(hub_id, info.sha, local=False)


def _transport_error() -> type[Exception]:
    # The hub's client changed its HTTP library once; its own error derives from whichever it uses.
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__mro__ if base.__module__.startswith("httpx"))


def is_cached(hub_id: str) -> bool:
    """Whether the local hub cache holds this model's configuration."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)
    except HFValidationError:
        return False


def _local(hub_id: str, why: str) -> HubModel:
    if is_cached(hub_id):
        return HubModel(hub_id, None, local=True)
    raise ModelError(
        f"model {hub_id!r} was asked; {why} and the local hub cache does not hold it: connect once to download it, "
        "pass a local folder, or use a model that probe fetches itself (probe fetch smollm2-135m)"
    )
