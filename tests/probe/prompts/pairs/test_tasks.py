"""Every task's pairs keep what pairs promise, and their answers are what another reading of the text gives."""

import json
import re
from collections.abc import Callable
from functools import cache

import pytest
from copier import words_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import letters
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from probe.errors import InputError, UnknownNameError, UsageError
from probe.models import LoadedModel
from probe.prompts.data import data_dir, rows
from probe.prompts.pairs import PAIR_TASKS, Pair, make_pairs, part_of

NAMES = json.loads((data_dir() / "ioi_words.json").read_text())["names"]
FACTS = {row["relation"]: row["facts"] for row in rows("facts.jsonl")}
KIND = {word: row["kind"] for row in rows("kinds.jsonl") for word in row["words"]}
ORDERS = [row["items"] for row in rows("ordinals.jsonl")]


@cache
def every_word() -> PreTrainedTokenizerFast:
    """A tokenizer that keeps each word of the shipped data whole, capitalised ones, years and signs among them."""
    text = " ".join(path.read_text() for path in data_dir().glob("*.json*"))
    words = set(re.findall(r"\w+", text)) | {str(number) for number in range(2000)}
    signs = {"+", "=", ",", ".", ":", "?", "(", "):", '"""'}
    capitals = {word.capitalize() for word in words}
    return words_tokenizer(sorted(words | capitals | signs))


def _ioi(text: str) -> str:
    said = re.findall(r"\w+", text)
    (answer,) = (name for name in NAMES if said.count(name) == 1)
    return str(answer)


def _colored_objects(text: str) -> str:
    asked = text.split("\n\n")[1]
    (thing,) = re.findall(r"What color is the (\w+)\?\nA:$", asked)
    (color,) = re.findall(rf"a (\w+) {thing}\b", asked)
    return color.capitalize()


def _successor(text: str) -> str:
    shown = [item.strip() for item in text.removeprefix("List:").rstrip(",").split(",")]
    found = set()
    for items in ORDERS:
        for start in range(len(items)):
            run = [items[(start + i) % len(items)] for i in range(4)]
            if run[:3] == shown:
                found.add(run[3])
    (answer,) = found
    return answer


def _arithmetic(text: str) -> str:
    *_, last = text.split("\n")
    return str(sum(int(number) for number in re.findall(r"\d+", last)))


def _counterfactual(text: str) -> str:
    question = text.split(". ")[-1]
    (stated,) = re.findall(rf"{question} (\w+)\.", text)
    return str(stated)


def _counterfactual_memory(text: str) -> str:
    question = text.split(". ")[-1]
    relation = "capital" if "capital" in question else "language" if "speak" in question else "continent"
    (answer,) = (FACTS[relation][word] for word in question.split() if word in FACTS[relation])
    return str(answer)


def _docstring(text: str) -> str:
    (signature,) = re.findall(r"\(self, (.*)\):", text)
    return signature.split(", ")[len(re.findall(r":param \w+:", text))]


def _multiple_choice(text: str) -> str:
    question = text.split("\n\n")[-1]
    (kind,) = re.findall(r"Which of these is an? (\w+)\?", question)
    (letter,) = (letter for letter, word in re.findall(r"(\w): (\w+)", question) if KIND[word] == kind)
    return str(letter)


def _recall(text: str) -> str:
    (city,) = (word for word in re.findall(r"\w+", text) if word in FACTS["capital"].values())
    return city


def _reasoning(text: str) -> str:
    (country,) = (country for country, city in FACTS["capital"].items() if city == _recall(text))
    return country


SOLVERS: dict[str, Callable[[str], str]] = {
    "ioi": _ioi,
    "colored_objects": _colored_objects,
    "successor": _successor,
    "arithmetic": _arithmetic,
    "arithmetic_three": _arithmetic,
    "counterfactual": _counterfactual,
    "counterfactual_memory": _counterfactual_memory,
    "docstring": _docstring,
    "multiple_choice": _multiple_choice,
    "recall": _recall,
    "reasoning": _reasoning,
}


def _marked(pair: Pair, prompt: str = "clean") -> dict[str, str]:
    """The strings at the marks, without their spaces."""
    said = getattr(pair, prompt).str_tokens
    return {mark: said[at].strip() for mark, at in pair.marks.items()}


@settings(max_examples=24)
@given(st.sampled_from(sorted(SOLVERS)), st.integers(0, 10**6))
def test_answers_are_what_the_text_asks_for(task: str, seed: int) -> None:
    """Right answers the clean prompt, wrong the corrupt one; the prompts are of one length and differ."""
    tokenizer = every_word()
    for pair in make_pairs(task, tokenizer, count=3, seed=seed):
        assert len(pair.clean) == len(pair.corrupt)
        assert pair.clean.tokens != pair.corrupt.tokens
        answers = {"right": pair.clean, "wrong": pair.corrupt}
        for side, prompt in answers.items():
            (token,) = getattr(pair, side)
            if (task, side) == ("counterfactual", "wrong"):
                assert _counterfactual_memory(pair.clean.text) == _counterfactual(prompt.text)
            said = SOLVERS[task](prompt.text)
            assert prompt.answer.strip() == said, prompt.text
            assert tokenizer.convert_ids_to_tokens(token) == said, prompt.text
        assert pair.marks["end"] == len(pair.clean) - 1


CHANGED = {
    "ioi": {"s2"},
    "colored_objects": {"asked"},
    "greater_than": {"tens", "ones"},
    "successor": {"first", "second", "third"},
    "arithmetic": {"second"},
    "arithmetic_three": {"third"},
    "counterfactual": {"stated"},
    "counterfactual_memory": {"subject", "asked"},
    "docstring": {"third", "fourth"},
    "multiple_choice": {"right", "other"},
    "recall": {"stated"},
    "reasoning": {"stated"},
}


@settings(max_examples=16)
@given(st.sampled_from(sorted(PAIR_TASKS)), st.integers(0, 10**6))
def test_prompts_differ_at_the_marks_of_what_was_changed(task: str, seed: int) -> None:
    """The differing tokens are at these marks and nowhere else."""
    for pair in make_pairs(task, every_word(), count=3, seed=seed):
        both = zip(pair.clean.tokens, pair.corrupt.tokens, strict=True)
        differ = {at for at, (one, other) in enumerate(both) if one != other}
        assert differ <= {pair.marks[mark] for mark in CHANGED[task]}
        assert differ


@settings(max_examples=10)
@given(st.sampled_from(sorted(PAIR_TASKS)), st.integers(0, 10**6))
def test_the_seed_decides(task: str, seed: int) -> None:
    """The same seed gives the same pairs, another one others, and no pair comes twice."""
    one, again, other = (make_pairs(task, every_word(), count=8, seed=seed + more) for more in (0, 0, 1))
    assert one == again
    assert [pair.clean.tokens for pair in one] != [pair.clean.tokens for pair in other]
    assert len({(pair.clean.tokens, pair.corrupt.tokens) for pair in one}) == 8
    assert len({pair.id for pair in one}) == 8


@settings(max_examples=10)
@given(st.sampled_from(sorted(PAIR_TASKS)), st.integers(0, 99), st.integers(0, 99))
def test_parts_share_no_pair(task: str, one: int, other: int) -> None:
    """Whatever the seeds, a pair of the train part is not in the held-out one, nor is its swapped one."""
    train = make_pairs(task, every_word(), count=6, seed=one, part="train")
    held_out = make_pairs(task, every_word(), count=6, seed=other, part="held_out")
    assert len(train) == len(held_out) == 6
    prompts = {frozenset((pair.clean.tokens, pair.corrupt.tokens)) for pair in train}
    assert not prompts & {frozenset((pair.clean.tokens, pair.corrupt.tokens)) for pair in held_out}
    assert {part_of(pair) for pair in train} == {part_of(pair) for pair in train.swapped()} == {"train"}


def test_marks_say_what_they_are_called() -> None:
    """Words at the marks of tasks whose marks have roles that nothing else checks."""
    tokenizer = every_word()
    for pair in make_pairs("ioi", tokenizer, count=12):
        clean, corrupt = _marked(pair), _marked(pair, "corrupt")
        assert clean["s1"] == clean["s2"] != clean["io"] == corrupt["s2"]
    for pair in make_pairs("colored_objects", tokenizer, count=12):
        clean, corrupt = _marked(pair), _marked(pair, "corrupt")
        assert (clean["asked"], corrupt["asked"]) == (clean["object"], clean["other_object"])
        assert pair.clean.answer == " " + clean["color"].capitalize()
        for role in ("", "other_", "third_"):
            assert pair.marks[f"{role}object"] == pair.marks[f"{role}color"] + 1
    for pair in make_pairs("multiple_choice", tokenizer, count=12):
        clean = _marked(pair)
        assert KIND[clean["right"]] == clean["asked"] == KIND[_marked(pair, "corrupt")["other"]]
        assert pair.clean.answer == " " + clean["right_letter"]
        assert pair.corrupt.answer == " " + clean["other_letter"]
        for role in ("right", "other", "third", "fourth"):
            assert pair.marks[role] == pair.marks[f"{role}_letter"] + 2
    for pair in make_pairs("docstring", tokenizer, count=12):
        clean = _marked(pair)
        assert (clean["first"], clean["second"]) == (clean["first_described"], clean["second_described"])
        assert pair.corrupt.answer == " " + clean["fourth"]
    for pair in make_pairs("arithmetic_three", tokenizer, count=12):
        clean = _marked(pair)
        assert (clean["plus"], clean["plus_third"], clean["equals"]) == ("+", "+", "=")
        for prompt in (pair.clean, pair.corrupt):
            *shown, last = prompt.text.split("\n")
            assert len(shown) == 4
            assert not any(line.startswith(last.strip()) for line in shown)  # its answer could be copied
            assert all(_arithmetic(line.split("=")[0]) == line.split("= ")[1] for line in shown)
        assert sum(int(clean[slot]) for slot in ("first", "second", "third")) == int(pair.clean.answer)


def test_letters_are_right_equally_often() -> None:
    """No letter is favoured, so that a model which always says one letter solves a quarter."""
    answers = [pair.clean.answer for pair in make_pairs("multiple_choice", every_word(), count=16)]
    assert sorted(answers) == sorted([" A", " B", " C", " D"] * 4)


def _two_digits() -> PreTrainedTokenizerFast:
    """As `every_word`, with numbers cut into groups of two digits."""
    tokenizer = words_tokenizer([*every_word().get_vocab(), *(f"{number:02d}" for number in range(100))])
    pairs = pre_tokenizers.Split(Regex(r"\d\d"), "isolated")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pairs, pre_tokenizers.Whitespace()])
    return tokenizer


def _digits() -> PreTrainedTokenizerFast:
    """As `every_word`, with numbers cut into digits."""
    tokenizer = words_tokenizer(sorted(every_word().get_vocab()))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.Whitespace()])
    return tokenizer


@pytest.mark.parametrize(
    ("make", "ending", "width"),
    [(every_word, "year", 4), (_two_digits, "century", 2), (_digits, "century", 1)],
)
def test_later_ends_are_right_however_years_are_split(make, ending: str, width: int) -> None:
    """Every end that a right token opens is later than the start, none that a wrong one opens is; the rest is mixed."""
    tokenizer = make()
    for pair in make_pairs("greater_than", tokenizer, count=20):
        first, start = re.findall(r"from the year (\d\d)(\d\d)", pair.clean.text)[0]
        assert pair.clean.text.endswith("to the year" if ending == "year" else f"to the year {first}")
        assert f"from the year {first}01" in pair.corrupt.text
        said = {f"{year:02d}"[:width] if width < 4 else f"{first}{year:02d}": [] for year in range(100)}
        for year in range(100):
            said[f"{year:02d}"[:width] if width < 4 else f"{first}{year:02d}"].append(year > int(start))
        right, wrong = (set(tokenizer.convert_ids_to_tokens(list(ids))) for ids in (pair.right, pair.wrong))
        assert right == {token for token, later in said.items() if all(later)}
        assert wrong == {token for token, later in said.items() if not any(later)}


@pytest.mark.parametrize("task", sorted(PAIR_TASKS))
def test_a_tokenizer_that_splits_or_does_not_know_the_words(task: str) -> None:
    """Nothing is made of pieces of words, nor of words that the tokenizer takes for one unknown token."""
    said = "names" if task == "ioi" else f"pairs of {task} were asked"
    with pytest.raises(InputError, match=rf"{said}.*give p|splits every name"):
        make_pairs(task, letters())
    with pytest.raises(InputError, match=r"pairs of your own|does not know"):
        make_pairs(task, words_tokenizer(["nothing", "else"]))


def test_what_cannot_be_asked() -> None:
    """An unknown task, no pairs, no tokenizer, and more pairs than there are."""
    with pytest.raises(UnknownNameError, match="did you mean 'successor'"):
        make_pairs("succesor", every_word())
    with pytest.raises(UsageError, match="0 pairs"):
        make_pairs("ioi", every_word(), count=0)
    with pytest.raises(UsageError, match="no tokenizer"):
        make_pairs("ioi", None)
    few = words_tokenizer(["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "List", ":", ","])
    assert len(make_pairs("successor", few, count=1)) == 1
    with pytest.raises(InputError, match="2 pairs of successor were asked; with this tokenizer 1 different"):
        make_pairs("successor", few, count=2)


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_real_tokenizers_keep_the_tasks(name: str, request: pytest.FixtureRequest) -> None:
    """Subword tokenizers of real models give forty pairs of each task, answered right, in both parts."""
    model: LoadedModel = request.getfixturevalue(name)
    for task in PAIR_TASKS:
        for part in ("train", "held_out"):
            pairs = make_pairs(task, model.tokenizer, count=20, part=part)
            for pair in pairs:
                if task in SOLVERS:
                    assert SOLVERS[task](pair.clean.text) == pair.clean.answer.strip(), pair.clean.text
                    (right,) = pair.right
                    assert model.tokenizer.decode([right]).strip() == pair.clean.answer.strip()
                else:
                    start = int(re.findall(r"from the year \d\d(\d)", pair.clean.text)[0])
                    right = {int(model.tokenizer.decode([token])) for token in pair.right}
                    assert right == set(range(start + 1, 10))


def test_a_small_model_solves_some(smollm2: LoadedModel) -> None:
    """Right is above wrong in most of a few pairs of the tasks that SmolLM2 is known to do."""
    import torch

    for task in ("ioi", "greater_than", "successor", "docstring", "recall", "reasoning"):
        above = []
        for pair in make_pairs(task, smollm2.tokenizer, count=4, seed=1):
            with torch.inference_mode():
                logits = smollm2.model(torch.tensor([pair.clean.tokens])).logits[0, -1]
            above.append(logits[list(pair.right)].max() > logits[list(pair.wrong)].max())
        assert sum(above) >= 3, task
