"""Responses that a model writes itself to small problems, step by step: what claims about reasoning are read on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.work import Work

TOKENS, TEMPERATURE = 160, 0.7  # most tokens of a response; the temperature of Li et al. 2025
PROBLEMS = (
    "A farmer has 3 dogs and 4 hens. How many legs do they have together?",
    "A train leaves at 9:40 and arrives at 12:15. How long is the journey?",
    "Anna reads 12 pages a day. Her book has 150 pages. How many days does she need?",
    "A shirt costs 40 dollars and is sold with 25 percent off. What is the new price?",
    "Two boxes hold 18 and 27 apples. They are shared among 5 children. How many apples does each child get?",
    "A garden is 8 metres long and 5 metres wide. How long is a fence around it, and how large is the garden?",
    "Tom is twice as old as Eva. Together they are 27. How old is each of them?",
    "A tank holds 90 litres. A pump fills 6 litres a minute, and a leak loses 1. How long until it is full?",
    "Five friends each shake hands once with every other. How many handshakes are there?",
    "A bus has 32 seats. At the first stop 15 people get on, then 9 get off and 20 on. How many seats are free?",
    "Which is larger, three fifths of 45 or two thirds of 42?",
    "A clock strikes once at one, twice at two, and so on. How many times does it strike from one to six?",
)
ASKED = "Think step by step, write one sentence for each step, and check the result at the end."


def reasoned(work: Work) -> list[Prompt]:
    """A response to each problem as a prompt whose span ``response`` is what the model wrote; written once for all.

    A model with a chat template is asked through it; another continues ``Problem: … Solution: …``. Tokens are drawn at
    `TEMPERATURE` from the whole distribution, with the seed of the work, until the model ends or `TOKENS` are there.
    """
    written = work.once("responses", _write, work.model, work.seed)
    prompts = [_prompt(work.model, number, *one) for number, one in enumerate(written) if one[1]]
    return work.few(prompts, 3)


def _write(loaded: LoadedModel, seed: int) -> list[tuple[list[int], list[int]]]:
    """Token ids of every prompt and of its response, all written in one batch."""
    model: Any = loaded.model
    asked = [_asked(loaded, problem) for problem in PROBLEMS]
    width = max(map(len, asked))
    ids = torch.tensor([[0] * (width - len(one)) + one for one in asked], device=loaded.device)
    real = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in asked], device=loaded.device)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        out = model.generate(
            input_ids=ids, attention_mask=real, max_new_tokens=TOKENS, do_sample=True, temperature=TEMPERATURE,
            top_k=0, top_p=1.0, pad_token_id=0,
        )  # fmt: skip
    ends = _ends(loaded)
    found = []
    for tokens, row in zip(asked, out[:, width:].tolist(), strict=True):
        end = next((at for at, token in enumerate(row) if token in ends), len(row))
        found.append((tokens, row[:end]))
    return found


def _asked(loaded: LoadedModel, problem: str) -> list[int]:
    tokenizer: Any = loaded.tokenizer
    if getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": f"{problem} {ASKED}"}]
        return list(Prompt.from_messages(messages, tokenizer).tokens)
    return list(Prompt.of(f"Problem: {problem}\n\nSolution: Let us think step by step.", tokenizer).tokens)


def _ends(loaded: LoadedModel) -> set[int]:
    configured: Any = getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None)
    tokenizer: Any = loaded.tokenizer
    return {*(configured if isinstance(configured, list) else [configured]), tokenizer.eos_token_id} - {None}


def told(prompts: Sequence[Prompt]) -> str:
    """How many responses and tokens there are, and how they came about, in a sentence."""
    tokens = sum(int(prompt.spans["response"].sum()) for prompt in prompts)
    return (
        f"{len(prompts)} responses of the model itself ({tokens} tokens) to small arithmetic problems, drawn "
        f"at temperature {TEMPERATURE}, at most {TOKENS} tokens each; nothing was chosen or tuned on them"
    )


def _prompt(loaded: LoadedModel, number: int, asked: Sequence[int], said: Sequence[int]) -> Prompt:
    prompt = Prompt.of_tokens([*asked, *said], loaded.tokenizer, id=f"problem {number}")
    answered = np.arange(len(prompt)) >= len(asked)
    return replace(prompt, spans={**prompt.spans, "prompt": ~answered, "response": answered})
