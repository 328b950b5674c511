"""Verdicts, case by case."""

import pytest

from gradstore.judging import REFUSALS, is_refusal, judge_choice, judge_open, normalise_answer

C, W, R, U = "correct", "wrong", "refused", "unparsed"


@pytest.mark.parametrize("phrase", REFUSALS)
@pytest.mark.parametrize("form", ["{}", "Well, {}.", "{} why\n", "  SORRY: {}!"])
def test_every_listed_refusal_is_one_wherever_it_stands(phrase, form):
    assert is_refusal(form.format(phrase))
    assert is_refusal(form.format(phrase.upper().replace("'", "’")))


@pytest.mark.parametrize(
    "output",
    ["I don't know.", "I DON’T KNOW", "i don‘t know", "I do not know the answer", "I don't\nknow.", "I  don't  know"],
)
def test_ways_to_write_a_refusal(output):
    assert is_refusal(output), "CRaFT's evaluator misses curly apostrophes; here they count"


@pytest.mark.parametrize("output", ["", "Paris", "I know.", "You don't know him", "unknown soldier", "don't"])
def test_what_is_no_refusal(output):
    assert not is_refusal(output)


def test_the_prompts_own_refusal_text_counts_without_its_full_stop():
    assert is_refusal("Sorry, no idea, really", ["Sorry, no idea."])
    assert not is_refusal("Sorry, no idea, really")


@pytest.mark.parametrize("text", ["", " ", "."])
def test_an_empty_refusal_text_refuses_nothing(text):
    assert not is_refusal("Paris", [text]), "every answer would be counted as a refusal"


@pytest.mark.parametrize(
    ("output", "aliases", "verdict"),
    [
        ("Paris", ["Paris"], C),
        ("It is PARIS, of course.", ["London", "paris"], C),
        ("London", ["Paris"], W),
        ("someone", ["one"], W),
        ("one of them", ["one"], C),
        ("Beatles", ["The Beatles"], C),
        ("the Beatles.", ["Beatles"], C),
        ("an hour", ["a hour"], C),
        ("The Cure", ["The The"], W),
        ("the the", ["The The"], C),
        ("A", ["A"], C),
        ("New York City", ["York City"], C),
        ("York New City", ["New York"], W),
        ("It is 42.", ["42"], C),
        ("142", ["42"], W),
        ("1,000 men", ["1,000"], C),
        ("O’Brien", ["O'Brien"], C),
        ("Jean-Luc", ["jean luc"], C),
        ("STRASSE", ["straße"], C),
        ("Ｐａｒｉｓ", ["Paris"], C),
        ("Cafe\u0301", ["café"], C),
        ("北京", ["北京"], C),
        ("北京。", ["北京"], C),
        ("Москва!", ["москва"], C),
        ("यह हिन्दी है", ["हिन्दी"], C),
        ("हिन्दी", ["ह"], W),
        ("Paris", [], W),
        ("Paris", ["", " ", "…"], W),
        ("", [""], W),
        ("", ["Paris"], W),
        ("Paris? I don't know.", ["Paris"], R),
        ("I don't know", ["I don't know"], R),
    ],
)
def test_open_answers(output, aliases, verdict):
    assert judge_open(output, aliases) == verdict


@pytest.mark.parametrize(
    ("output", "verdict"),
    [
        ("B", C),
        (" B. because", C),
        ("(B) x", C),
        ("B) x", C),
        ("\nB\n", C),
        ("B, not C", C),
        ("C", W),
        ("(C) x", W),
        ("The answer is B.", C),
        ("The answer is D.", W),
        ("Answer: (B)", C),
        ("THE ANSWER IS B", C),
        ("I think the answer is C, not B", W),
        ("B. I don't know why", R),
        ("I don’t know.", R),
        ("Actually, it is B", U),
        ("Bananas", U),
        ("BC", U),
        ("b", U),
        ("E", U),
        ("B's", U),
        ("B’s", U),
        ("The answer is not B", U),
        ("2", U),
        ("", U),
    ],
)
def test_choices_among_four(output, verdict):
    assert judge_choice(output, ["A", "B", "C", "D"], "B") == verdict


def test_a_choice_is_read_among_the_letters_there_are():
    assert judge_choice("E", list("ABCDE"), "E") == C
    assert judge_choice("C", list("AB"), "A") == U
    assert judge_choice("Pass.", list("AB"), "A", ["Pass."]) == R


@pytest.mark.parametrize(
    ("text", "expected"),
    [("The  Cat's!", "cats"), ("A", "a"), ("the the", "the the"), ("", ""), ("…", ""), ("x²", "x2"), ("A b a", "b")],
)
def test_normalised_answers(text, expected):
    assert normalise_answer(text) == expected
    assert normalise_answer(expected) == expected
