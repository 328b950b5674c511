"""The presets: which record shapes each data set comes in, and which parser reads each shape."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gradstore.datasets.records import (
    Drop,
    Question,
    by_index_or_letter,
    by_label,
    by_letter,
    by_text_letter_or_index,
    multiple_choice,
    open_question,
)
from gradstore.datasets.text import TEXT, as_list, as_text

Fields = Mapping[str, Any]

QA_FIELDS = ("question", "answer", "aliases", "choices", "id", "subject")


@dataclass(frozen=True)
class Shape:
    """One form a record comes in: how a message names it, whether a record has it, and how it is read."""

    named: str
    fits: Callable[[Fields], bool]
    parse: Callable[[Fields], Question | Drop]


@dataclass(frozen=True)
class Preset:
    """The shapes of one data set, tried in order, and the columns of its CSV files that have no header."""

    name: str
    shapes: tuple[Shape, ...]
    headerless: tuple[str, ...] = ()
    subject_from_csv_name: bool = False

    def parse(self, fields: Fields) -> Question | Drop:
        """Read a record by the first shape it has; `missing-field` where it has none."""
        for shape in self.shapes:
            if shape.fits(fields):
                return shape.parse(fields)
        return Drop("missing-field", f"found {described(fields)}; expected {self.expected}")

    @property
    def expected(self) -> str:
        return " or ".join(shape.named for shape in self.shapes)


def described(fields: Fields, most: int = 12) -> str:
    """Name the fields of a record with their types, the first ``most`` of them."""
    shown = [f"{str(name)[:40]}: {type(value).__name__}" for name, value in list(fields.items())[:most]]
    return "{" + ", ".join(shown + ["…"] * (len(fields) > most)) + "}"


def _typed(**kinds: type | tuple[type, ...]) -> Callable[[Fields], bool]:
    """Say of a record whether it has each of these fields, with a value of the kind."""
    return lambda fields: all(n in fields and isinstance(fields[n], kind) for n, kind in kinds.items())


def _mmlu_row(fields: Fields) -> Question | Drop:
    answer = fields["target"] if "target" in fields else fields["answer"]
    return multiple_choice(fields["question"], [fields[x] for x in "ABCD"], answer, by_letter, fields.get("subject"))


def _mmlu_listed(fields: Fields) -> Question | Drop:
    answer, subject = fields["answer"], fields.get("subject")
    return multiple_choice(fields["question"], fields["choices"], answer, by_index_or_letter, subject)


def _is_ai2_arc(fields: Fields) -> bool:
    question = fields["question"] if _typed(question=dict, answerKey=TEXT)(fields) else {}
    return _typed(stem=TEXT, choices=list)(question) and all(isinstance(c, dict) for c in question["choices"])


def _ai2_arc(fields: Fields) -> Question | Drop:
    question = fields["question"]
    texts, labels = ([choice.get(name) for choice in question["choices"]] for name in ("text", "label"))
    return _labelled(question["stem"], texts, labels, fields["answerKey"])


def _is_hf_arc(fields: Fields) -> bool:
    return _typed(question=TEXT, choices=dict, answerKey=TEXT)(fields) and _typed(text=list, label=list)(
        fields["choices"]
    )


def _hf_arc(fields: Fields) -> Question | Drop:
    choices = fields["choices"]
    return _labelled(fields["question"], choices["text"], choices["label"], fields["answerKey"])


def _labelled(question: Any, texts: list[Any], labels: list[Any], answer: Any) -> Question | Drop:
    """Letter the options by position, so that labels 1 to 4 become A to D."""
    if len(texts) != len(labels) or len({as_text(label) for label in labels}) != len(labels):
        return Drop("bad-choices", f"{len(texts)} options with labels {[as_text(label) for label in labels]}")
    return multiple_choice(question, texts, answer, by_label(labels))


def _with_answers(fields: Fields) -> Question | Drop:
    return open_question(fields["question"], [fields["answer"], *_several(fields.get("answers"))])


def _listed_answers(fields: Fields) -> Question | Drop:
    return open_question(fields["question"], fields["answer"])


def _ai2_trivia(fields: Fields) -> Question | Drop:
    answer = fields["Answer"]
    aliases = _several(answer.get("Aliases")) + _several(answer.get("NormalizedAliases"))
    return open_question(fields["Question"], [answer.get("Value"), *aliases])


def _hf_trivia(fields: Fields) -> Question | Drop:
    answer = fields["answer"]
    aliases = _several(answer.get("aliases")) + _several(answer.get("normalized_aliases"))
    return open_question(fields["question"], [answer.get("value"), *aliases])


def _any_question(fields: Fields) -> Question | Drop:
    question, answer, subject = fields["question"], fields["answer"], fields.get("subject")
    if fields.get("choices") in (None, ""):
        return open_question(question, [answer, *_several(fields.get("aliases"))], subject)
    options = as_list(fields["choices"])
    if options is None:
        return Drop("bad-choices", "choices are not a list (in CSV: a JSON array)")
    return multiple_choice(question, options, answer, by_text_letter_or_index, subject)


def _several(value: Any) -> list[Any]:
    """Read aliases: a list, one text, or nothing."""
    several = as_list(value)
    return [value] if several is None else several


_LETTERED: dict[str, Any] = dict.fromkeys(("question", "A", "B", "C", "D"), TEXT)
_SIMPLE = (
    Shape("{question, answer, [answers]}", _typed(question=TEXT, answer=TEXT), _with_answers),
    Shape("{question, answer: [...]}", _typed(question=TEXT, answer=list), _listed_answers),
)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "mmlu",
            (
                Shape("{question, A, B, C, D, target}", _typed(**_LETTERED, target=TEXT), _mmlu_row),
                Shape("{question, A, B, C, D, answer}", _typed(**_LETTERED, answer=TEXT), _mmlu_row),
                Shape(
                    "{question, [subject], choices: [...], answer}",
                    _typed(question=TEXT, choices=list, answer=TEXT),
                    _mmlu_listed,
                ),
            ),
            headerless=("question", "A", "B", "C", "D", "answer"),
            subject_from_csv_name=True,
        ),
        Preset(
            "arc",
            (
                Shape("{question: {stem, choices: [{text, label}]}, answerKey}", _is_ai2_arc, _ai2_arc),
                Shape("{question, choices: {text: [...], label: [...]}, answerKey}", _is_hf_arc, _hf_arc),
            ),
        ),
        Preset("nq", _SIMPLE),
        Preset(
            "triviaqa",
            (
                Shape("{Question, Answer: {Value, Aliases}}", _typed(Question=TEXT, Answer=dict), _ai2_trivia),
                Shape("{question, answer: {value, aliases}}", _typed(question=TEXT, answer=dict), _hf_trivia),
                *_SIMPLE,
            ),
        ),
        Preset(
            "qa",
            (
                Shape(
                    "{question, answer, [aliases], [choices], [id], [subject]}",
                    _typed(question=TEXT, answer=TEXT),
                    _any_question,
                ),
            ),
        ),
    )
}
