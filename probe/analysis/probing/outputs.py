"""Head outputs at the examples' rows: one forward per prompt, and nothing kept but the means that are asked."""

from collections.abc import Sequence

import numpy as np
import torch
from probe_kernels.types import Attended, Want

from probe.analysis.forward import Runner
from probe.analysis.guard import FiniteGuard
from probe.analysis.inputs import Item
from probe.analysis.probing.examples import Examples
from probe.analysis.probing.options import HeadProbeOptions
from probe.errors import UnsupportedAttentionError
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.readouts.evaluating import evaluating
from probe.seam.call import AttentionCall
from probe.seam.session import Session

LayerKey = tuple[str, int]  # tower, layer


class Outputs:
    """Collects the mean z of every example, per tower and layer: ``[example, head, d_head]``."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples
        self.prompt = 0  # which prompt is in flight
        self._parts: dict[LayerKey, list[np.ndarray]] = {}

    def want(self, call: AttentionCall) -> Want:
        """Head outputs of the towers that read the prompt's tokens."""
        return Want(z=call.place.tower in ("decoder", "encoder"))

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Keep the rows of this prompt's examples."""
        if call.place.tower not in ("decoder", "encoder"):
            return
        if attended.z is None:
            raise UnsupportedAttentionError(
                f"head outputs of {call.place.module} were asked; the model gave only its attention weights"
            )
        z = attended.z[0].detach()
        place = {int(index): row for row, index in enumerate(call.query_index[0].tolist()) if index >= 0}
        for example in np.flatnonzero(self.examples.prompt == self.prompt):
            rows = [place[int(token)] for token in self.examples.rows[example] if int(token) in place]
            if not rows:
                return  # a tower that does not hold these tokens, such as a decoder that was given its start alone
            mean = z[:, rows].double().mean(1).cpu().numpy()
            self._parts.setdefault((call.place.tower, call.place.layer), []).append(mean)

    def stacked(self) -> dict[LayerKey, np.ndarray]:
        """All examples of every layer that saw all of them."""
        whole = {key: parts for key, parts in sorted(self._parts.items()) if len(parts) == len(self.examples)}
        return {key: np.stack(parts) for key, parts in whole.items()}


def head_outputs(
    loaded: LoadedModel, prompts: Sequence[Prompt], examples: Examples, options: HeadProbeOptions
) -> tuple[dict[LayerKey, np.ndarray], Session]:
    """The examples' head outputs, and the session that saw them."""
    runner, outputs = Runner(loaded), Outputs(examples)
    with (
        evaluating(loaded.model),
        torch.no_grad(),
        Session(loaded.model, [FiniteGuard(), outputs], mode="fused") as session,
    ):
        for number, prompt in enumerate(prompts):
            options.report_progress(number, len(prompts), "prompts")
            outputs.prompt = number
            runner.run(runner.tensors([Item(prompt)]))
        session.require_seen()
    return outputs.stacked(), session
