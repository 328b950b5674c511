"""What a model is asked, character by character."""

import dataclasses

import pytest

from gradstore.errors import GradstoreError
from gradstore.prompts import TEMPLATES, Prompt, Template, from_row, option_letters, template
from gradstore.schemas import TABLES

TRAILING_SPACE = ("craft-basic", "craft-refuse", "craft-query")


def mcqa(sample_id: str = "m", choices=("0", "4", "2", "6"), **other) -> dict:
    sample = {
        "sample_id": sample_id,
        "source": "mmlu",
        "task": "mcqa",
        "subject": "abstract algebra",
        "question": "Find the degree",
        "choices": list(choices),
        "answer": "B",
    }
    return sample | other


def oeqa(sample_id: str = "o", **other) -> dict:
    sample = {
        "sample_id": sample_id,
        "source": "nq",
        "task": "oeqa",
        "subject": None,
        "question": "who wrote Emma",
        "choices": None,
        "answer": "Jane Austen",
    }
    return sample | other


OPTIONS = "Question: Find the degree\nA. 0\nB. 4\nC. 2\nD. 6\nAnswer: "
TOPIC = "There is a single choice question about abstract algebra. "
REFUSE = (
    "If you know the answer, please directly respond with the correct answer A, B, C, or D. "
    'If you do not know the answer, please respond with "I don\'t know.".\n'
)


@pytest.mark.parametrize(
    ("name", "sample", "expected"),
    [
        ("craft-basic", mcqa(), TOPIC + "Answer the question by replying A, B, C or D.\n" + OPTIONS),
        ("craft-query", mcqa(), TOPIC + "Answer the question by replying A, B, C or D.\n" + OPTIONS),
        ("craft-refuse", mcqa(), TOPIC + REFUSE + OPTIONS),
        ("craft-basic", oeqa(), "who wrote Emma"),
        (
            "craft-refuse",
            oeqa(),
            "Answer the following question, and if you don't know the answer, "
            "only reply with 'I don't know': who wrote Emma",
        ),
        (
            "craft-query",
            oeqa(),
            "Answer the following question as simple as possible.\nQuestion: who wrote Emma\nAnswer:",
        ),
        ("r-tuning", oeqa(), "Question: who wrote Emma Answer:"),
        ("basic", oeqa(), "Question: who wrote Emma\nAnswer:"),
        ("refuse", oeqa(), 'Answer, or say "I don\'t know."\nQuestion: who wrote Emma\nAnswer:'),
    ],
)
def test_the_papers_prompts_to_the_character(name, sample, expected):
    assert Prompt(TEMPLATES[name]).ask(sample) == expected


@pytest.mark.parametrize(
    ("source", "subject", "topic"),
    [("arc", None, "STEM"), ("qa", None, "general knowledge"), ("arc", "physics", "physics")],
)
def test_a_missing_subject_has_a_name(source, subject, topic):
    asked = Prompt(TEMPLATES["craft-basic"]).ask(mcqa(source=source, subject=subject))
    assert asked.startswith(f"There is a single choice question about {topic}. ")


@pytest.mark.parametrize(
    ("n", "letters", "oxford"),
    [
        (2, "A or B", "A, or B"),
        (3, "A, B or C", "A, B, or C"),
        (4, "A, B, C or D", "A, B, C, or D"),
        (5, "A, B, C, D or E", "A, B, C, D, or E"),
    ],
)
def test_letters_are_those_of_the_options(n, letters, oxford):
    sample = mcqa(choices=[f"x{i}" for i in range(n)])
    assert f"by replying {letters}.\n" in Prompt(TEMPLATES["basic"]).ask(sample)
    assert f"correct answer {oxford}. If" in Prompt(TEMPLATES["craft-refuse"]).ask(sample)
    assert option_letters(sample["choices"]) == list("ABCDE"[:n])
    assert f"\n{'ABCDE'[n - 1]}. x{n - 1}\nAnswer:" in Prompt(TEMPLATES["basic"]).ask(sample)


@pytest.mark.parametrize("name", TEMPLATES)
def test_braces_in_a_question_stay_as_they_are(name):
    odd = "What is {question} in {0}, {{x}} or {?"
    assert odd in Prompt(TEMPLATES[name]).ask(oeqa(question=odd))
    assert "B. {options}\n" in Prompt(TEMPLATES[name]).ask(mcqa(question=odd, choices=["{", "{options}"]))


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("sample", [mcqa(), oeqa()], ids=["mcqa", "oeqa"])
def test_plain_prompt_and_reply_are_joined_by_exactly_one_space(name, sample):
    prompt = Prompt(TEMPLATES[name])
    asked, reply = prompt.ask(sample), prompt.reply(sample, "B")
    assert (asked + reply).endswith(" B")
    assert not (asked + reply).endswith("  B")
    trailing = name in TRAILING_SPACE and sample["task"] == "mcqa"
    assert reply == ("B" if trailing else " B"), "the space belongs to the side that the tokenizer saw it on"


def test_plain_demos_come_first_each_with_its_answer():
    prompt = Prompt(TEMPLATES["basic"], demos=(oeqa("d1", question="q1", answer="a1"), mcqa("d2"), oeqa("d3")))
    asked = prompt.ask(oeqa(question="q2"))
    shots = "Question: q1\nAnswer: a1\n\nQuestion: who wrote Emma\nAnswer: Jane Austen\n\n"
    assert asked == shots + "Question: q2\nAnswer:", "a demo of the other task was shown, or one was lost"


def test_plain_demos_of_a_template_with_a_trailing_space_have_one_space_too():
    asked = Prompt(TEMPLATES["craft-query"], demos=(mcqa("d"),)).ask(mcqa())
    assert "\nAnswer: B\n\nThere is" in asked


def test_chat_prompts_are_messages_and_replies_have_no_space():
    prompt = Prompt(TEMPLATES["basic"], chat_template="{{ messages }}", demos=(oeqa("d1", question="q1"), mcqa("d2")))
    assert prompt.ask(oeqa(question="q2")) == [
        {"role": "user", "content": "Question: q1\nAnswer:"},
        {"role": "assistant", "content": "Jane Austen"},
        {"role": "user", "content": "Question: q2\nAnswer:"},
    ]
    assert prompt.reply(oeqa(), "no") == [{"role": "assistant", "content": "no"}]


def test_response_text():
    prompt = Prompt(TEMPLATES["refuse"], refusal_text="Pass.")
    assert prompt.response_text(oeqa(), "answer") == "Jane Austen"
    assert prompt.response_text(oeqa(), "refusal") == "Pass."


@pytest.mark.parametrize("chat_template", [None, "{{ messages }}"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_rebuilt_from_its_row_asks_the_same(name, chat_template):
    demos = (mcqa("d1"), oeqa("d2"), oeqa("d3", question="other"))
    prompt = Prompt(TEMPLATES[name], chat_template, "Pass.", demos, "<s>", "</s>")
    again = from_row(prompt.as_row(), demos=demos[::-1])
    assert again == prompt
    assert again.prompt_id == prompt.prompt_id
    for sample in (mcqa(), oeqa()):
        assert again.ask(sample) == prompt.ask(sample)
    assert list(prompt.as_row()) == TABLES["prompts"].schema.names


def test_prompt_id_changes_with_each_ingredient():
    base = Prompt(Template("t", "m {question}", "o {question}"), "chat", "Pass.", (oeqa("d1"), oeqa("d2")))
    changed = [
        dataclasses.replace(base, template=Template("t", "M {question}", "o {question}")),
        dataclasses.replace(base, template=Template("t", "m {question}", "O {question}")),
        dataclasses.replace(base, template=Template("t", "o {question}", "m {question}")),
        dataclasses.replace(base, chat_template="other"),
        dataclasses.replace(base, chat_template=""),
        dataclasses.replace(base, chat_template=None),
        dataclasses.replace(base, refusal_text="pass."),
        dataclasses.replace(base, demos=base.demos[::-1]),
        dataclasses.replace(base, demos=base.demos[:1]),
        dataclasses.replace(base, demos=()),
    ]
    assert len({p.prompt_id for p in [base, *changed]}) == 1 + len(changed), "two ways of asking share one id"


def test_prompt_id_is_of_the_text_and_not_of_its_name():
    assert Prompt(Template("a", "m", "o")).prompt_id == Prompt(Template("b", "m", "o")).prompt_id


def test_golden_prompt_ids_of_the_named_templates():
    found = {name: Prompt(t).prompt_id[:8] for name, t in TEMPLATES.items()}
    assert found == {
        "basic": "c7cf7ebe",
        "refuse": "1129a05d",
        "craft-basic": "7e10615d",
        "craft-refuse": "13bbd487",
        "craft-query": "bf95e090",
        "r-tuning": "fed948f9",
    }, "a template's text changed: stored probes and gradients no longer match it"


def test_an_unknown_template_lists_those_there_are():
    assert template("basic") is TEMPLATES["basic"]
    with pytest.raises(GradstoreError, match="no template 'nope': there are basic, refuse, craft-basic"):
        template("nope")
