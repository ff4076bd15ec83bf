"""``probe.edit``: interventions on a model for as long as a block lasts, ``generate()`` included."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from probe.analysis.choice import check_backend
from probe.analysis.ready import check_interventions, ready, require_edited, require_effect
from probe.errors import UsageError
from probe.models import as_loaded
from probe.prompts import Prompt
from probe.seam.session import Session


@contextmanager
def edit(
    model: object,
    interventions: object,
    *,
    prompts: Sequence[Prompt] | None = None,
    kernels: str | None = None,
) -> Iterator[Session]:
    """Edit what a model's heads do until the block ends; the model is restored in every case.

    Args:
        model: A Hugging Face model, ``(model, tokenizer)``, a `LoadedModel`, or a name.
        interventions: What to change; applied in order.
        prompts: The sequences of the next forward, row by row: interventions on named spans need them.
        kernels: Backend: ``reference``, ``torch`` or ``triton``; None chooses by device.

    Yields:
        The open session; ``announce(...)`` names the spans of later sequences.

    Raises:
        UsageError: no interventions, or one that edits nothing.
        UnknownNameError: a layer or head that the model does not have.
        ModelInUseError: another thread observes or edits the model.
        CaptureError: the model was verified on first use, and edits would not take effect.
        UnseenLayersError: at the end, an edited layer ran without reaching the seam.
        InterventionError: an intervention cannot act on this model; or, at the end, it changed nothing.
    """
    edits = check_interventions(interventions)
    if not edits:
        raise UsageError("an edit without interventions was asked; give at least one")
    check_backend(kernels)
    loaded = as_loaded(model)
    check_backend(kernels, loaded)
    edits = ready(edits, loaded, prompts)
    with Session(loaded.model, (), edits, kernels=kernels) as session:
        if prompts is not None:
            session.announce([spans_of(prompt) for prompt in prompts])
        yield session
        require_edited(edits, session)
        require_effect(session)


def spans_of(prompt: Prompt) -> dict[str, torch.Tensor]:
    """A prompt's spans as the seam takes them."""
    return {name: torch.from_numpy(flags.copy()) for name, flags in prompt.spans.items()}
