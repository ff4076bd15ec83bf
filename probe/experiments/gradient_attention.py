"""Gradient × attention: what an answer owes to each input token through the attention that its gradient weighs."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from probe.experiments.base import Ask
from probe.experiments.credit_answer import Credit, credit_answer
from probe.experiments.explained import Layer, blocks_of, cannot_recompute, explain, row_chain
from probe.experiments.gradients import gradients_allowed
from probe.experiments.model_answer import cannot_predict
from probe.experiments.rollout import nothing
from probe.experiments.seen_rows import cannot_read
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least, one_of
from probe.report.answer import Answer


class GradientAttention:
    """Number of tokens on which an answer's credit rests, 1 or more, at the input of every layer.

    ``Ā_l = mean_h relu(∇A_l ⊙ A_l)``, ∇ the gradient of the most likely next token's logit; ``R ← R + Ā_l R`` from R
    = I; the credit is the last token's row of R - I, for tokens at the input (token map, first layer) and before
    every layer. The number is ``(Σ c)² / Σ c²``. The row is a chain of vector-matrix products; ∂y/∂A_ij = ∂y/∂z_i ·
    v_j, so that only z's gradient is kept, and blocks of A and ∇A are computed again from q, k and v.

    Chefer, Gur & Wolf 2021, Generic Attention-model Explainability (arXiv:2103.15679), self-attention rule; their code
    too starts from the class's logit.

    Args:
        of: ``logit`` of the answer, or its ``log_prob``.
        tokens: the shipped text is cut to so many tokens.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="gradient_attention",
        summary="Tokens on which the answer's gradient-weighted attention rests, 1 or more, at each layer's input.",
        unit="tokens",
        better="high",
        paper="Chefer et al. 2021",
        bibtex="""@inproceedings{chefer2021generic,
  title={Generic Attention-Model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers},
  author={Chefer, Hila and Gur, Shir and Wolf, Lior},
  booktitle={IEEE/CVF International Conference on Computer Vision},
  year={2021}
}""",
        axis="layer",
        slow=True,
    )

    def __init__(self, of: Literal["logit", "log_prob"] = "logit", tokens: int = 256) -> None:
        self.spec = self.info.name
        one_of(self.spec, "of", of, ("logit", "log_prob"))
        at_least(self.spec, "tokens", tokens, 1)
        self.of: Literal["logit", "log_prob"] = of
        self.tokens = tokens

    def run(self, ask: Ask) -> list[Answer]:
        """A forward, a backward and a recomputation per prompt; `UsageError` where gradients cannot pass."""
        gradients_allowed(ask.model, self.spec)
        reason = cannot_read(ask.model) or cannot_predict(ask.model) or cannot_recompute(ask.model)
        if reason:
            return [nothing(self.info, self.spec, ask.model, reason)]
        prompts = ask.texts(self.tokens)
        found = []
        for number, prompt in enumerate(prompts):
            ask.tell(number, len(prompts), f"{self.spec}: {prompt.id}")
            layers = explain(ask.model, prompt, self.of).layers
            values = row_chain(layers, len(prompt) - 1, step)
            values[:, -1] -= 1.0  # the identity: what the row owes to its own stream
            found.append(Credit(prompt.id, len(prompt) - 1, [one.number for one in layers], values.numpy()))
        ask.tell(len(prompts), len(prompts), self.spec)
        return [credit_answer(self.info, self.spec, found, (f"of={self.of}, answer at the last token",))]


def step(layer: Layer, credit: Float[Tensor, "token"]) -> Float[Tensor, "token"]:
    """Credit · (I + mean_h relu(∇A ⊙ A))."""
    out = credit.clone()
    for rows in blocks_of(credit):
        weighed = torch.relu(layer.gradient_rows(rows) * layer.rows(rows)).double().mean(0).cpu()
        out += credit[rows] @ weighed
    return out
