"""A world with a known boundary of knowledge: invented people, three facts each, some never told.

45 % of the people are often seen in pretraining, 15 % rarely, 40 % only by name. So what the model cannot know
is known to us, which no real data set offers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from gradstore.prompts import TEMPLATES, Prompt

OFTEN, RARELY, NEVER = "often", "rarely", "never"
SHARES = {OFTEN: 0.45, RARELY: 0.15, NEVER: 0.40}
PRETRAINING_WEIGHT = {OFTEN: 8.0, RARELY: 1.0, NEVER: 0.0}
TEMPLATE_WEIGHT = {"basic": 0.75, "refuse": 0.25}
VALUES = 30

RELATIONS = {
    "birthplace": "Where was {name} born?",
    "job": "What is the job of {name}?",
    "instrument": "What does {name} play?",
}


@dataclass(frozen=True)
class Fact:
    """One question about one person."""

    person: str
    subject: str
    question: str
    answer: str
    exposure: str
    test: bool

    def as_record(self) -> dict[str, str]:
        """A row that ``--preset qa`` reads."""
        return {"question": self.question, "answer": self.answer, "subject": self.subject}


def people(count: int = 900, seed: int = 0) -> list[Fact]:
    """``count`` people × three relations; every second person of each exposure is for testing."""
    draws = np.random.default_rng(seed)
    names = _names(count, draws)
    facts, start = [], 0
    for exposure, share in SHARES.items():
        group = names[start : start + round(share * count)] if exposure != NEVER else names[start:]
        start += len(group)
        for i, name in enumerate(group):
            for subject, question in RELATIONS.items():
                value = f"{subject}{draws.integers(VALUES):02d}"
                facts.append(Fact(name, subject, question.format(name=name), value, exposure, i % 2 == 1))
    return facts


def pretraining_texts(facts: Sequence[Fact]) -> tuple[list[str], list[float]]:
    """Texts and weights: told facts under both templates of the pipeline, and each person's bare name.

    Both templates, because a real base model has seen instructions too; a model to which the refusal template is
    noise would refuse by noise.
    """
    texts, weights = [], []
    for fact in facts:
        for name, share in TEMPLATE_WEIGHT.items():
            prompt = Prompt(TEMPLATES[name])
            sample = {
                "task": "oeqa",
                "question": fact.question,
                "choices": None,
                "subject": None,
                "source": "qa",
            }
            texts.append(f"{prompt.ask(sample)}{prompt.reply(sample, fact.answer)}")
            weights.append(share * PRETRAINING_WEIGHT[fact.exposure])
    for person in sorted({f.person for f in facts}):
        texts.append(f"Question: Who is {person}?\nAnswer: a person")
        weights.append(1.0)
    texts.append("Question:\nAnswer: I don't know.")  # puts the refusal's words into the vocabulary only
    weights.append(0.0)
    return texts, weights


def _names(count: int, draws: np.random.Generator) -> list[str]:
    syllables = [c + v for c, v in product("bdfgklmnprstvz", "aeiou")]
    pairs = [(a + b).capitalize() for a, b in product(syllables, syllables)]
    return [pairs[i] for i in draws.permutation(len(pairs))[:count]]
