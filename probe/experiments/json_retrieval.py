"""Retrieval heads found on JSON lookups: AttentionInfluence's proxy task (arXiv:2505.07293)."""

from typing import ClassVar, Literal

from probe.errors import UsageError
from probe.experiments.base import Ask
from probe.experiments.copy_tests import EXTRA_STEPS, CopyTest, cannot_copy, run_tests
from probe.experiments.retrieval_answer import not_applicable, retrieval_answer
from probe.metrics.base import MetricInfo
from probe.prompts.json_lookups import MOST_VALUE_TOKENS, SOLVED, json_lookups
from probe.report.answer import Answer


class JsonRetrieval:
    """Mean share of a looked-up value's tokens that a head copies, 0 to 1, over the lookups that the model passes.

    A JSON object maps random keys to values; three keys are solved as examples, a fourth is asked; the model answers
    greedily. Scores are those of `retrieval`: head h copies at the step that emits token w iff its most attended key
    j*, over all visible positions, lies in the value's span and x[j*] = w; ``score_h = |value tokens copied by h| /
    |value tokens|`` (as sets), averaged over the lookups whose response has a ROUGE-1 recall of the value above 0.5.

    Hua et al. 2025, AttentionInfluence (arXiv:2505.07293). The paper has 800 samples of at most 4096 tokens and values
    of web documents. Deviations: values are parts of sentences of the shipped text; a key is asked as it stands in the
    object, up to the value's opening quote, so that the value has the same tokens in both places.

    Args:
        samples: how many lookups.
        pairs: pairs in the object, at least four; a pair takes about 45 tokens.
        place: ``span``: j* lies in the value; ``anywhere``: j* may lie anywhere in the prompt, if it holds w and w is
            one of the value's tokens (the paper's words allow both).
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="json_retrieval",
        summary="Share of a JSON value's tokens that a head copies when its key is asked, 0 to 1, passed lookups",
        unit="share of answer tokens",
        better="high",
        paper="Hua et al. 2025",
        bibtex="""@misc{hua2025attentioninfluence,
  title={AttentionInfluence: Adopting Attention Head Influence for Weak-to-Strong Pretraining Data Selection},
  author={Hua, Kai and Wu, Steven and Zhang, Ge and Shen, Ke},
  year={2025},
  eprint={2505.07293},
  archivePrefix={arXiv}
}""",
        causal_only=True,
        slow=True,
    )

    def __init__(
        self, samples: int = 12, pairs: int = 6, place: Literal["span", "anywhere"] = "span"
    ) -> None:
        if samples < 1:
            raise UsageError(f"json_retrieval: samples was {samples}; allowed is 1 or more")
        if pairs <= SOLVED:
            raise UsageError(f"json_retrieval: pairs was {pairs}; allowed is {SOLVED + 1} or more")
        self.spec = self.info.name
        self.samples, self.pairs, self.place = samples, pairs, place

    def run(self, ask: Ask) -> list[Answer]:
        """Run every lookup and answer for the decoder; the seed draws keys and values.

        Prompts are its own. Where the model cannot generate text, or passes no lookup, the scores are NaN and a note
        says why. In `extra`, ``depth`` is the place of the asked pair in the object, 0 (first) to 1 (last), and there
        is one length: the longest prompt's.
        """
        model = ask.model
        reason = cannot_copy(model)
        if reason:
            return [not_applicable(self.info, self.spec, model, reason)]
        lookups = json_lookups(model.tokenizer, count=self.samples, pairs=self.pairs, seed=ask.seed)
        longest = max(len(one.prompt) for one in lookups)
        room = model.max_positions
        if room is not None and longest + MOST_VALUE_TOKENS + EXTRA_STEPS > room:
            reason = f"lookups of {longest} tokens and their values need more than its {room} positions"
            return [not_applicable(self.info, self.spec, model, f"{reason}: ask for fewer pairs")]
        tests = [CopyTest(one.prompt, longest, one.depth) for one in lookups]
        outcomes = run_tests(ask, tests, self.spec, anywhere=self.place == "anywhere")
        how = (
            f"place={self.place}, {self.pairs} pairs, {SOLVED} solved before the asked one, prompts of up to {longest} "
            "tokens; values from the shipped text's part for training"
        )
        return [retrieval_answer(self.info, self.spec, outcomes, [how])]
