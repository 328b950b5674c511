"""One record becomes one question, or is dropped with a reason. Pure: no files, no other records.

Modelled on datatrove's filters (``pipeline/filters/base_filter.py``), which keep or return why not.
"""

import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gradstore.datasets.text import TEXT, as_text, brief
from gradstore.identity import normalise_question, sample_id

LETTERS = string.ascii_uppercase
MIN_CHOICES, MAX_CHOICES = 2, len(LETTERS)

# Find the position of an answer among the options, both as read; None: it is not one of them.
FindGold = Callable[[Any, Sequence[Any]], int | None]


@dataclass(frozen=True)
class Question:
    """A record that was kept: ``answer`` is a letter beside ``choices`` (mcqa), a text beside ``aliases``."""

    text: str
    answer: str
    choices: tuple[str, ...] | None = None
    aliases: tuple[str, ...] | None = None
    subject: str | None = None

    @property
    def task(self) -> str:
        return "oeqa" if self.choices is None else "mcqa"

    @cached_property
    def id(self) -> str:
        return sample_id(self.task, self.text, self.choices)


@dataclass(frozen=True)
class Drop:
    """A record that was not kept: a reason code, and the reason in words."""

    reason: str
    detail: str


def multiple_choice(
    question: Any, options: Sequence[Any], answer: Any, find: FindGold, subject: Any = None
) -> Question | Drop:
    """Keep a question with 2 to 26 distinct options, one of which ``find`` names as the answer."""
    text, choices = as_text(question), tuple(as_text(option) for option in options)
    if not text:
        return Drop("empty-question", "the question has no text")
    if kinds := _structures(options):
        return Drop("bad-choices", f"an option is a {kinds[0]}, text was expected")
    if fault := _fault_of_choices(choices):
        return Drop("bad-choices", fault)
    if not as_text(answer):
        return Drop("empty-answer", "the answer has no text")
    position = find(answer, options)
    if position is None:
        return Drop("gold-not-an-option", f"answer {brief(answer)} is none of the {len(choices)} options")
    return Question(text, LETTERS[position], choices=choices, subject=_topic(subject))


def open_question(question: Any, answers: Iterable[Any], subject: Any = None) -> Question | Drop:
    """Keep a question with a gold answer, the first of ``answers``; the others are aliases, each once."""
    answers = list(answers)
    text, accepted = as_text(question), [as_text(answer) for answer in answers]
    if not text:
        return Drop("empty-question", "the question has no text")
    if kinds := _structures(answers):
        return Drop("missing-field", f"an answer is a {kinds[0]}, text was expected")
    if not accepted or not accepted[0]:
        return Drop("empty-answer", "the answer has no text")
    aliases = tuple(dict.fromkeys(alias for alias in accepted if alias))
    return Question(text, aliases[0], aliases=aliases, subject=_topic(subject))


def by_letter(answer: Any, options: Sequence[Any]) -> int | None:
    """Read an option letter, A to Z in either case."""
    letter = as_text(answer).upper()
    position = LETTERS.find(letter) if len(letter) == 1 else -1
    return position if 0 <= position < len(options) else None


def by_index(answer: Any, options: Sequence[Any]) -> int | None:
    """Read a position from 0, as a number or in digits."""
    digits = as_text(answer)
    within = digits.isascii() and digits.isdigit() and len(digits) <= 2 and int(digits) < len(options)
    return int(digits) if within else None


def by_index_or_letter(answer: Any, options: Sequence[Any]) -> int | None:
    position = by_index(answer, options)
    return by_letter(answer, options) if position is None else position


def by_label(labels: Sequence[Any]) -> FindGold:
    """Read a label that stands beside each option: A, B, … or 1, 2, …"""
    names = [as_text(label) for label in labels]

    def find(answer: Any, options: Sequence[Any]) -> int | None:
        return names.index(as_text(answer)) if as_text(answer) in names else None

    return find


def by_text_letter_or_index(answer: Any, options: Sequence[Any]) -> int | None:
    """Read an answer of unknown kind, in this order: the text of exactly one option, a letter, an index.

    A number equals only an option that is a number too: the integer 2 beside the texts "2", "4", "6" is an
    index, the text "2" is the first option.
    """
    matches = [i for i, option in enumerate(options) if _same(answer, option)]
    if len(matches) == 1:
        return matches[0]
    position = by_letter(answer, options)
    return by_index(answer, options) if position is None else position


def _same(answer: Any, option: Any) -> bool:
    if isinstance(answer, str) != isinstance(option, str):
        return False
    return normalise_question(as_text(answer)) == normalise_question(as_text(option))


def _fault_of_choices(choices: Sequence[str]) -> str | None:
    """Say what is wrong with the options. Equal are those that a sample's id cannot tell apart."""
    if not MIN_CHOICES <= len(choices) <= MAX_CHOICES:
        return f"{len(choices)} options, {MIN_CHOICES} to {MAX_CHOICES} expected"
    seen: dict[str, str] = {}
    for letter, choice in zip(LETTERS, choices, strict=False):
        name = normalise_question(choice)
        if not name:
            return f"option {letter} has no text"
        if name in seen:
            return f"options {seen[name]} and {letter} are both {brief(choice)}"
        seen[name] = letter
    return None


def _structures(values: Iterable[Any]) -> list[str]:
    """Name the types among ``values`` that are not text."""
    return [type(value).__name__ for value in values if not isinstance(value, TEXT)]


def _topic(subject: Any) -> str | None:
    return as_text(subject).replace("_", " ").strip() or None
