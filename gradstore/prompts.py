"""How a model is asked, and what it is to reply: every prompt of this project, and those of the papers.

``basic`` asks (probe); ``refuse`` asks and allows "I don't know." (gradients, fine-tuning, tuned models). One
:class:`Prompt` makes the text of all stages, so a gradient is that of the row that is exported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradstore.errors import GradstoreError
from gradstore.identity import prompt_id

REFUSAL_TEXT = "I don't know."
# R-Tuning (Zhang et al. 2024, arXiv 2311.09677), released code: what follows an answer.
_ASKED = "Are you sure you accurately answered the question based on your internal knowledge?"
SURE, UNSURE = f"{_ASKED} I am sure.", f"{_ASKED} I am unsure."
Sample = Mapping[str, Any]  # one row of the samples table
Text = str | list[dict[str, str]]  # plain text, or chat messages


@dataclass(frozen=True)
class Template:
    """One text a task, over {question}, {options}, {letters}, {letters_oxford} and {subject}."""

    name: str
    mcqa: str
    oeqa: str


_CHOICE = "Question: {question}\n{options}\nAnswer:"
_TOPIC = "There is a single choice question about {subject}. "
_ALLOWED = (
    "If you know the answer, please directly respond with the correct answer {letters_oxford}. "
    'If you do not know the answer, please respond with "I don\'t know.".\n'
)

TEMPLATES = {
    t.name: t
    for t in (
        Template("basic", "Answer by replying {letters}.\n" + _CHOICE, "Question: {question}\nAnswer:"),
        Template(
            "refuse",
            'Answer by replying {letters}, or "I don\'t know."\n' + _CHOICE,
            'Answer, or say "I don\'t know."\nQuestion: {question}\nAnswer:',
        ),
        # CRaFT (arXiv 2410.06913) and GRAIT (arXiv 2502.05911), released code: BASIC and REFUSE, zero-shot.
        Template(
            "craft-basic",
            _TOPIC + "Answer the question by replying {letters}.\n" + _CHOICE + " ",
            "{question}",
        ),
        Template(
            "craft-refuse",
            _TOPIC + _ALLOWED + _CHOICE + " ",
            "Answer the following question, and if you don't know the answer, "
            "only reply with 'I don't know': {question}",
        ),
        # CRaFT's knowledge query on TriviaQA (BASIC2), meant for three shots.
        Template(
            "craft-query",
            _TOPIC + "Answer the question by replying {letters}.\n" + _CHOICE + " ",
            "Answer the following question as simple as possible.\nQuestion: {question}\nAnswer:",
        ),
        # R-Tuning (arXiv 2311.09677), released code.
        Template("r-tuning", _CHOICE, "Question: {question} Answer:"),
    )
}


@dataclass(frozen=True)
class Prompt:
    """A template as one model is asked with it. ``chat_template`` null means plain text."""

    template: Template
    chat_template: str | None = None
    refusal_text: str = REFUSAL_TEXT
    demos: tuple[Sample, ...] = ()
    bos_token: str | None = None
    eos_token: str | None = None

    @property
    def prompt_id(self) -> str:
        texts = {"mcqa": self.template.mcqa, "oeqa": self.template.oeqa}
        return prompt_id(texts, self.chat_template, [d["sample_id"] for d in self.demos], self.refusal_text)

    def as_row(self) -> dict[str, Any]:
        """The row of the ``prompts`` table."""
        return {
            "prompt_id": self.prompt_id,
            "template": self.template.name,
            "mcqa": self.template.mcqa,
            "oeqa": self.template.oeqa,
            "chat_template": self.chat_template,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "refusal_text": self.refusal_text,
            "demos": [d["sample_id"] for d in self.demos],
        }

    def ask(self, sample: Sample) -> Text:
        """The prompt: demos of its task first, each with its answer; a string, or messages for a chat model."""
        demos = [d for d in self.demos if d["task"] == sample["task"]]
        if self.chat_template is None:
            shots = [self._question(d) + _joint(self._question(d)) + d["answer"] for d in demos]
            return "\n\n".join([*shots, self._question(sample)])
        messages = []
        for demo in demos:
            messages.append({"role": "user", "content": self._question(demo)})
            messages.append({"role": "assistant", "content": demo["answer"]})
        return [*messages, {"role": "user", "content": self._question(sample)}]

    def reply(self, sample: Sample, text: str) -> Text:
        """``text`` as the completion of :meth:`ask`; plain text starts with the space that the prompt lacks."""
        if self.chat_template is None:
            return _joint(self._question(sample)) + text
        return [{"role": "assistant", "content": text}]

    def response_text(self, sample: Sample, response: str) -> str:
        """The text of a response: ``answer`` is the sample's own, ``refusal`` the refusal text."""
        return sample["answer"] if response == "answer" else self.refusal_text

    def _question(self, sample: Sample) -> str:
        text = self.template.mcqa if sample["task"] == "mcqa" else self.template.oeqa
        letters = option_letters(sample["choices"] or [])
        options = "\n".join(f"{a}. {c}" for a, c in zip(letters, sample["choices"] or [], strict=True))
        return text.format(
            question=sample["question"],
            options=options,
            letters=_listed(letters, " or "),
            letters_oxford=_listed(letters, ", or "),
            subject=sample["subject"] or ("STEM" if sample["source"] == "arc" else "general knowledge"),
        )


def template(name: str) -> Template:
    """The template called ``name``. Raises GradstoreError with the names there are."""
    if name not in TEMPLATES:
        raise GradstoreError(f"no template {name!r}: there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def from_row(row: Mapping[str, Any], demos: Sequence[Sample]) -> Prompt:
    """Rebuild a prompt from its row of the ``prompts`` table; no model and no tokenizer is needed."""
    by_id = {d["sample_id"]: d for d in demos}
    return Prompt(
        template=Template(row["template"], row["mcqa"], row["oeqa"]),
        chat_template=row["chat_template"],
        refusal_text=row["refusal_text"],
        demos=tuple(by_id[i] for i in row["demos"]),
        bos_token=row["bos_token"],
        eos_token=row["eos_token"],
    )


def option_letters(choices: Sequence[str]) -> list[str]:
    """A, B, C, … one for each option."""
    return [chr(ord("A") + i) for i in range(len(choices))]


def _listed(letters: Sequence[str], last: str) -> str:
    return ", ".join(letters[:-1]) + last + letters[-1] if len(letters) > 1 else "".join(letters)


def _joint(prompt: str) -> str:
    return "" if prompt[-1:].isspace() else " "
