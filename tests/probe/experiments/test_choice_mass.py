"""Choice mass: by hand, a planted copier that an example helps, questions of shipped words, and bad input."""

from collections import Counter

import numpy as np
import pytest
import torch
from copier import copier, words_tokenizer
from small_models import bert, gpt2, letters

import probe
from probe.errors import InputError, UsageError
from probe.experiments.base import Ask
from probe.experiments.choice_mass import ChoiceMass
from probe.experiments.shots import OTHER, before, with_examples
from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.prompts.choices import LETTERS, Question, choice_questions, token_ids
from probe.prompts.data import rows

KINDS = {row["kind"]: row["words"] for row in rows("kinds.jsonl")}
WORDS = ["Which", "of", "these", "is", "a", "an", "?", ":", "Answer", *LETTERS, *OTHER, "yes", "no", "item"]
EVERY = [*WORDS, *KINDS, *(word for words in KINDS.values() for word in words)]


def loaded(build: object) -> LoadedModel:
    return LoadedModel(build(), letters(), "small", ModelSource("given"))


def own(tokenizer: object, answers: list[str | None]) -> tuple[Prompt, ...]:
    words = [*KINDS["fruit"], *KINDS["tool"]]
    texts = [f"item {word} :" for word in words[: len(answers)]]
    return tuple(
        Prompt.of(text, tokenizer, id=f"p{n}", answer=answer)
        for n, (text, answer) in enumerate(zip(texts, answers, strict=True))
    )


def test_mass_is_the_sum_over_choices_of_the_models_own_probabilities() -> None:
    """With and without a space, of eager logits at the last position; the best choice decides."""
    small = loaded(gpt2)
    prompts = tuple(Prompt.of(text, small.tokenizer, id=text, answer="a") for text in ("bcd", "fgh"))
    (answer,) = ChoiceMass(choices="a+b+c", shots=1).run(Ask(small, prompts))
    ids = small.tokenizer.convert_tokens_to_ids(["a", "b", "c"])
    for number, text in enumerate(("bcd", "fgh")):
        for place, whole in enumerate((text, f"{('fgh', 'bcd')[number]} a\n\n{text}")):
            with torch.no_grad():
                logits = small.model(**small.tokenizer(whole, return_tensors="pt")).logits[0, -1].double()
            p = logits.softmax(-1)[ids].numpy()
            assert answer.extra["mass_by_prompt"].values[number, place] == pytest.approx(p.sum(), rel=1e-5)
            assert answer.extra["right_by_prompt"].values[number, place] == (p.argmax() == 0)
    mass = answer.extra["mass_by_prompt"].values
    assert answer.head_map.item() == pytest.approx(mass[:, 1].mean())
    assert answer.extra["mass_rise"].sel(bound="value").item() == pytest.approx(np.diff(mass).mean())
    assert answer.extra["chance"].item() == pytest.approx(1 / 3)


def test_one_example_shows_a_copier_what_may_be_said() -> None:
    """Mass rises to most of 1; accuracy follows where the example has the same answer, and only there."""
    model = copier(EVERY)
    model.model.lm_head.weight.data.mul_(4.0)
    for answers, right in ((["yes"] * 6, 1.0), (["yes", "no"] * 3, 0.0)):
        (found,) = ChoiceMass(choices="yes+no").run(Ask(model, own(model.tokenizer, answers)))
        low, high = found.extra["mass_interval"].sel(shots=1).values
        assert found.extra["mass"].sel(shots=0).item() < 0.1
        assert found.extra["mass"].sel(shots=1).item() > 0.5
        assert low <= found.head_map.item() <= high
        assert found.extra["mass_rise"].sel(bound="low").item() > 0.4
        assert found.extra["accuracy"].sel(shots=1).item() == right
    (control,) = ChoiceMass(choices="yes+no", demo="other").run(Ask(model, own(model.tokenizer, ["yes"] * 6)))
    assert control.head_map.item() < 0.1


def test_edits_act() -> None:
    """Without its copying head the copier gains nothing from the example."""
    model = copier(EVERY)
    model.model.lm_head.weight.data.mul_(4.0)
    prompts = list(own(model.tokenizer, ["yes"] * 4))
    silent = [probe.interventions.zero(heads=["L1.H0"])]
    spec = "choice_mass:choices=yes+no"
    edited = probe.analyze(model, prompts, [spec], silent).answer(spec)
    assert edited.head_map.item() == pytest.approx(2 / len(model.tokenizer), rel=0.01)


def test_own_questions_are_balanced_and_parts_do_not_meet() -> None:
    """Each letter is right equally often, the answer's word is of the kind, and no word is in both parts."""
    tokenizer = words_tokenizer(EVERY)
    seen = {}
    for part in ("train", "held_out"):
        made = choice_questions(tokenizer, part=part, count=32, seed=3)
        assert set(Counter(one.answer for one in made).values()) == {8}
        seen[part] = set()
        for one in made:
            kind = one.text.splitlines()[0].split()[-1].rstrip("?")
            words = dict(line.split(": ") for line in one.text.splitlines()[1:5])
            assert [letter for letter, word in words.items() if word in KINDS[kind]] == [one.answer]
            seen[part] |= set(words.values())
        for one in choice_questions(tokenizer, task="kinds", part=part, count=12):
            word = one.text.splitlines()[1].removeprefix("Word: ")
            assert word in KINDS[one.answer]
            assert one.answer in one.choices
    assert not seen["train"] & seen["held_out"]
    assert choice_questions(tokenizer, seed=1) == choice_questions(tokenizer, seed=1)


def test_the_place_of_an_examples_answer_tells_nothing() -> None:
    """Over sixteen questions every pair of letters, the question's and its example's, comes once."""
    model = copier(EVERY)
    questions, examples, _ = ChoiceMass()._questions(Ask(model))
    pairs = Counter((one.answer, two[0].answer) for one, two in zip(questions, examples, strict=True))
    assert set(pairs.values()) == {1}
    assert len(pairs) == 16
    (found,) = ChoiceMass(count=4).run(Ask(model, seed=1))
    assert found.extra["mass"].sizes == {"shots": 2}
    assert any("4 questions of the train words" in note for note in found.notes)


def test_examples_are_answered_as_asked() -> None:
    """Right, wrong or by no choice at all; the next prompts with an answer stand before."""
    one, two = (Question(name, f"{name} =", answer, ("x", "y")) for name, answer in (("a", "x"), ("b", "y")))
    assert with_examples(one, [two], "right") == "b = y\n\na ="
    assert with_examples(one, [two], "wrong") == "b = x\n\na ="
    assert with_examples(one, [two], "other").splitlines()[0].split()[-1] in OTHER
    assert with_examples(one, [], "right") == "a ="
    assert before([one, two], 1) == [[two], [one]]


def test_bad_input_is_named() -> None:
    """Choices without prompts, of several tokens, answers that are no choice, and examples that nobody answered."""
    small, model = loaded(gpt2), copier(EVERY)
    with pytest.raises(InputError, match="no prompts of yours"):
        ChoiceMass(choices="a+b").run(Ask(small))
    with pytest.raises(InputError, match="'ab' is more than one token"):
        ChoiceMass(choices="ab+c").run(Ask(small, (Prompt.of("x", small.tokenizer),)))
    with pytest.raises(InputError, match="answered by 'maybe'"):
        ChoiceMass(choices="yes+no").run(Ask(model, own(model.tokenizer, ["maybe"])))
    with pytest.raises(InputError, match="shots=0"):
        ChoiceMass(choices="yes+no").run(Ask(model, own(model.tokenizer, [None, None])))
    with pytest.raises(UsageError, match="at least two words"):
        ChoiceMass(choices="yes")
    with pytest.raises(InputError, match="splits all but 0"):
        choice_questions(letters(), task="kinds")
    with pytest.raises(UsageError, match="at least 1"):
        choice_questions(letters(), count=0)
    assert token_ids("ab", letters()) == set()


def test_prompts_without_answers_have_mass_and_no_accuracy() -> None:
    """Without examples nobody needs to know the answer."""
    model = copier(EVERY)
    (found,) = ChoiceMass(choices="yes+no", shots=0).run(Ask(model, own(model.tokenizer, [None, None])))
    assert found.head_map.notnull().all()
    assert found.extra["accuracy"].isnull().all()
    assert found.extra["mass"].sizes == {"shots": 1}


def test_an_encoder_is_not_applicable() -> None:
    """NaN and the reason."""
    (found,) = ChoiceMass().run(Ask(loaded(bert)))
    assert found.head_map.isnull().all()
    assert "not applicable" in found.notes[0]
