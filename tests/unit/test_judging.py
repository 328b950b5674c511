"""Verdicts, case by case."""

import pytest

from gradstore.judging import (
    REFUSAL_POOL,
    REFUSALS,
    is_refusal,
    judge,
    judge_choice,
    judge_open,
    judge_reference,
    normalise_answer,
    reference_option,
)

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


# -- sentences to refuse with ----------------------------------------------------------------------------------


def test_the_pool_is_full_sentences_each_once():
    assert len(REFUSAL_POOL) == len(set(REFUSAL_POOL)) == 17, "R-Tuning's 16 for the unknown, and its unsure"
    assert all(s[0].isupper() and s.endswith(".") for s in REFUSAL_POOL)


@pytest.mark.parametrize("sentence", REFUSAL_POOL)
@pytest.mark.parametrize("form", ["{}", "Sorry. {}", "  {} \nQuestion:", "Well, {} Really."])
def test_every_sentence_of_the_pool_refuses(sentence, form):
    said = form.format(sentence)
    assert judge_open(said, ["Paris"]) == R
    assert judge_choice(said, list("ABCD"), "B", choices=["one", "two", "three", "four"]) == R
    assert is_refusal(said.upper().replace("'", "’").rstrip("."))


@pytest.mark.parametrize(
    "output",
    [
        "There is no scientific evidence for telepathy",
        "There is much debate about Troy",
        "It is difficult to predict earthquakes by this",
        "It is impossible to answer all letters",
        "I think there is no right answer key",
    ],
)
def test_what_only_begins_like_a_sentence_of_the_pool_is_an_answer(output):
    assert not is_refusal(output)


def test_a_sentence_of_the_pool_that_is_an_option_is_an_answer():
    choices = ["It cures colds.", "There is no scientific evidence.", "It is red", "None"]
    assert judge_choice("There is no scientific evidence.", list("ABCD"), "B", choices=choices) == C
    assert judge_choice("B. There is no scientific evidence.", list("ABCD"), "B", choices=choices) == C
    assert judge_choice("C. There is no scientific evidence.", list("ABCD"), "B", choices=choices) == W
    assert judge_choice("There is no scientific evidence.", list("ABCD"), "B") == R
    assert judge_choice("I don't know", list("AB"), "A", choices=["I don't know", "Paris"]) == R, "as in CRaFT"


def test_refusal_texts_are_whole_words():
    assert is_refusal("Pass!", ["Pass."])
    assert not is_refusal("A passenger", ["Pass."]), "every passenger would be a refusal"
    assert is_refusal("我不知道。", ["不知道"])


# -- option texts ----------------------------------------------------------------------------------------------

CITIES = ["New York", "Paris", "New York City", "the Hague"]


@pytest.mark.parametrize(
    ("output", "verdict"),
    [
        ("Paris", C),
        ("paris.", C),
        ("Paris, the capital of France", C),
        ("**Paris**", C),
        ("New York City", W),
        ("New York", W),
        ("New York is large", W),
        ("New York City is large", U),  # two options fit
        ("The Hague", W),
        ("Parisian", U),
        ("It is Paris", U),
        ("London", U),
        ("C. Paris", W),  # the letter goes first
        ("Paris? I don't know.", R),
        ("", U),
    ],
)
def test_an_option_may_be_given_by_its_text(output, verdict):
    sample = {"task": "mcqa", "choices": CITIES, "answer": "B", "aliases": None}
    assert judge(sample, output) == verdict


def test_options_that_normalise_alike_or_to_nothing_name_none():
    assert judge_choice("1", list("ABC"), "A", choices=["-1", "1", "2"]) == U
    assert judge_choice("+", list("AB"), "A", choices=["+", "-"]) == U
    assert judge_choice("3.5 m", list("AB"), "A", choices=["3.5", "3"]) == C


# -- the literature's judge ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "aliases", "verdict"),
    [
        ("Paris? I DON'T KNOW", ["Paris"], R),
        ("I don’t know", ["Paris"], W),
        ("I do not know", ["Paris"], W),
        ("someone", ["one"], C),
        ("the beatles", ["The Beatles"], C),
        ("Beatles", ["The Beatles"], W),
        ("London", ["Paris"], W),
        ("London", [""], W),
        ("", ["Paris"], W),
    ],
)
def test_the_reference_judge_of_open_answers(output, aliases, verdict):
    assert judge_reference({"task": "oeqa", "aliases": aliases, "answer": "Paris"}, output) == verdict


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("B. carbon", "B"),
        ("(C) carbon", "C"),
        ("Actually, it is blue", "A"),
        ("Bananas", "B"),
        ("The answer is (C).", "C"),
        ("The answer is **C** because A is not", "C"),
        ("The answer is **C** because of A", "A"),
        ("The correct answer is option D", "D"),
        ("the answer to the question is: B or C maybe", "B"),
        ("The correct option is \\boxed{C} since A fails", "C"),
        ("ANSWER: D\nBecause A is not", "D"),
        ("Not A but rather D", "D"),
        ("Among C: and A others", "C"),
        ("It is 10 times D more than B is", "B"),
        ("carbon", None),
        ("E", None),
        ("", None),
    ],
)
def test_the_reference_judge_reads_letters_as_opencompass_does(output, letter):
    assert reference_option(output, list("ABCD")) == letter
    sample = {"task": "mcqa", "choices": list("wxyz"), "answer": "B", "aliases": None}
    assert judge_reference(sample, output) == (U if letter is None else C if letter == "B" else W)


def test_the_reference_judge_refuses_before_it_reads_a_letter():
    sample = {"task": "mcqa", "choices": list("wx"), "answer": "B", "aliases": None}
    assert judge_reference(sample, "B. I don't know why") == R
    assert judge_reference(sample, "C") == U, "there are two options"
