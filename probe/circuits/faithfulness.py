"""How well a set of heads and MLPs stands for the whole model: faithfulness, completeness, minimality.

All three hold a circuit to runs in which nodes outside of it, or in it, have the values of the corrupt prompt.
"""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from probe.circuits.members import Member, Parts
from probe.circuits.study import Study
from probe.circuits.together import Together


class Faithfulness:
    """Circuits of one study, each judged by runs on the clean prompts."""

    def __init__(self, case: Study, parts: Parts = "heads+mlps") -> None:
        self.case = case
        self._corrupt = Together(case, parts, "noise")
        self.everything = self._corrupt.everything

    def kept(self, circuits: Sequence[Collection[Member]]) -> Float[Tensor, "circuit pair"]:
        """Faithfulness: ``(m - m_corrupt) / (m_clean - m_corrupt)`` with all but the circuit corrupt; 1 is all."""
        return self._share([set(self.everything) - set(one) for one in circuits])

    def removed(self, circuits: Sequence[Collection[Member]]) -> Float[Tensor, "circuit pair"]:
        """Completeness: the same share with the circuit corrupt, the rest kept; 0 where nothing else does it."""
        return self._share([set(one) for one in circuits])

    def without_each(self, circuit: Sequence[Member]) -> Float[Tensor, "member pair"]:
        """Minimality: how much faithfulness falls without each member; about 0 where it could go."""
        alone = [[other for other in circuit if other != one] for one in circuit]
        both = self.kept([circuit, *alone])
        return both[:1] - both[1:]

    def _share(self, corrupted: Sequence[Collection[Member]]) -> Tensor:
        return (self._corrupt.numbers(corrupted) - self.case.corrupt) / self.case.gap


def faithfulness(
    case: Study, members: Collection[Member], parts: Parts = "heads+mlps"
) -> Float[Tensor, " pair"]:
    """The share of the difference that a circuit keeps when every other head and MLP has its corrupt values, per pair.

    ``(m_circuit - m_corrupt) / (m_clean - m_corrupt)``: 1 where the circuit does all of it, 0 where nothing is left;
    the denominator is the mean over pairs. The embeddings are the clean prompt's in every case. With `parts` ``heads``
    MLPs are computed on what reaches them.
    """
    made: Tensor = Faithfulness(case, parts).kept([members])[0]
    return torch.as_tensor(made)
