"""Counterfactual question answering: a context that says otherwise than the world, and a statement to complete.

The two probe sets of Basu et al. 2025 (D_copy and D_memory). In the first the context's answer is exchanged for another
of its kind, and the model should follow the context; in the second for a word of no such kind, and what the model says
comes from memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.errors import InputError
from probe.prompts.data import rows
from probe.prompts.pairs.pair import PairSet
from probe.prompts.pairs.slots import Draft
from probe.prompts.pairs.words import frames, whole_words, word_list


@dataclass(frozen=True)
class Relation:
    """A statement up to its object, and the objects of the subjects that this tokenizer keeps whole."""

    name: str
    statement: str
    facts: Mapping[str, str]

    def template(self, frame: tuple[str, str]) -> str:
        """A context that states what holds of a subject, and the statement about an asked one up to its object."""
        opening, closing = frame
        asked = self.statement.replace("{subject}", "{asked}")
        return f"{opening} {self.statement} {{stated}}. {closing} {asked}"

    def two(self, generator: np.random.Generator) -> tuple[str, str]:
        """Two subjects of different objects."""
        subject = str(generator.choice(list(self.facts)))
        others = [other for other, said in self.facts.items() if said != self.facts[subject]]
        return subject, str(generator.choice(others))


def counterfactual_pairs(tokenizer: Any, count: int, seed: int) -> PairSet:
    """D_copy: the clean context states another object of its kind, which is right, the corrupt one the true object.

    Wrong is the true object, so right above wrong says that the context outweighs memory.

    Marks: ``subject``, ``stated`` (the object in the context), ``asked`` (the subject again), ``end``.

    Raises:
        InputError: this tokenizer splits the subjects or their objects.
    """
    relations = known_relations("counterfactual", tokenizer)
    generator = np.random.default_rng(seed)
    made = []
    for number in range(count):
        relation = relations[number % len(relations)]
        subject, other = relation.two(generator)
        stated, true = relation.facts[other], relation.facts[subject]
        clean = {"subject": subject, "stated": stated, "asked": subject}
        template = relation.template(_frame(generator))
        draft = Draft(f"counterfactual:{number}:{relation.name}", template, clean, clean | {"stated": true})
        made.append(draft.answered(" " + stated, " " + true, tokenizer))
    return PairSet("counterfactual", tuple(made))


def counterfactual_memory_pairs(tokenizer: Any, count: int, seed: int) -> PairSet:
    """D_memory: the context states a word of no such kind; the corrupt prompt is about another subject.

    Right is the subject's true object, wrong that of the corrupt prompt's subject: neither is said in the prompt, so
    what tells them apart is remembered. A model may still say the stated word first.

    Marks: ``subject``, ``stated`` (the word in the context), ``asked`` (the subject again), ``end``.

    Raises:
        InputError: this tokenizer splits the subjects, their objects or the other words.
    """
    relations = known_relations("counterfactual_memory", tokenizer)
    words = whole_words("counterfactual_memory", word_list("unrelated"), tokenizer, least=1)
    generator = np.random.default_rng(seed)
    made = []
    for number in range(count):
        relation = relations[number % len(relations)]
        subject, other = relation.two(generator)
        clean = {"subject": subject, "stated": str(generator.choice(words)), "asked": subject}
        corrupt = clean | {"subject": other, "asked": other}
        draft = Draft(
            f"counterfactual_memory:{number}:{relation.name}",
            relation.template(_frame(generator)),
            clean,
            corrupt,
        )
        made.append(draft.answered(" " + relation.facts[subject], " " + relation.facts[other], tokenizer))
    return PairSet("counterfactual_memory", tuple(made))


def known_relations(task: str, tokenizer: Any, *names: str) -> list[Relation]:
    """The shipped relations, or those named, cut to facts of two whole words; each has at least two objects.

    Raises:
        InputError: no relation has two.
    """
    shipped = [
        (row["relation"], row["statement"], dict(row["facts"]))
        for row in rows("facts.jsonl")
        if not names or row["relation"] in names
    ]
    words = sorted({word for *_, facts in shipped for fact in facts.items() for word in fact})
    whole = set(whole_words(task, words, tokenizer, least=4))
    kept = [
        Relation(name, statement, {a: b for a, b in facts.items() if {a, b} <= whole})
        for name, statement, facts in shipped
    ]
    usable = [relation for relation in kept if len(set(relation.facts.values())) >= 2]
    if not usable:
        raise InputError(
            f"pairs of {task} were asked; of {len(words)} names this tokenizer keeps {len(whole)} whole, and both "
            "sides of a fact in too few: give pairs of your own"
        )
    return usable


def _frame(generator: np.random.Generator) -> tuple[str, str]:
    opening, closing = frames()[int(generator.integers(len(frames())))]
    return opening, closing
