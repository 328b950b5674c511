"""Verdicts on what a model said: correct, wrong, refused or (multiple choice only) unparsed.

A refusal is looked for first, as in CRaFT. Rules of :func:`judge`, and how they differ from CRaFT's released
evaluator, which :func:`judge_reference` restates:

* refused: a refusal phrase occurs in the normalised output, or one of its sentences is one of R-Tuning's. CRaFT
  knows only "i don't know" with an ASCII apostrophe; here curly apostrophes, "do not know" and others count too.
* open questions: correct iff the words of some alias occur in the output, in a row, after normalising both
  (NFKC, case folded, punctuation to spaces, articles dropped). CRaFT matches substrings, so that the alias
  "one" is found in "someone"; whole words are not fooled by that.
* multiple choice: the letter that the output starts with, or that "answer is" / "answer:" names, else the option
  whose text the output is or starts with. CRaFT falls back to the first capital A–D anywhere ("Actually" is A);
  here such an output is unparsed.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

CORRECT, WRONG, REFUSED, UNPARSED = "correct", "wrong", "refused", "unparsed"
# Phrases that refuse wherever they stand.
REFUSALS = (
    "i don't know",
    "i do not know",
    "i'm not sure",
    "i am not sure",
    "i am unsure",
    "i'm unsure",
    "it is not known",
    "it is impossible to know",
    "the answer is unknown",
    "the answer is uncertain",
)
# R-Tuning-R's refusals, from its released code (arXiv 2311.09677); every one is recognised, with R-Tuning's "unsure".
UNKNOWN_TEXTS = (
    "The answer is unknown.",
    "The answer is uncertain.",
    "The answer is unclear.",
    "It is not known.",
    "I do not know the answer.",
    "I'm not sure.",
    "There is no definitive answer.",
    "There is much debate.",
    "There is no concrete answer to this question.",
    "It is impossible to answer.",
    "There is no known case.",
    "There is no public information available.",
    "There is no scientific evidence.",
    "There is no right answer.",
    "It is impossible to know.",
    "It is difficult to predict.",
)
REFUSAL_POOL = (*UNKNOWN_TEXTS, "I am unsure.")


def is_refusal(output: str, refusal_texts: Sequence[str] = ()) -> bool:
    """Whether the output holds a refusal phrase or one of ``refusal_texts``, or has a sentence of REFUSAL_POOL.

    The pool counts as whole sentences only: "There is no scientific evidence for it" may well be an answer.
    """
    return _holds_refusal(output, refusal_texts) or _pool_sentence(output)


def judge_open(output: str, aliases: Sequence[str], refusal_texts: Sequence[str] = ()) -> str:
    """correct | wrong | refused; ``aliases`` are the accepted answers (an empty one matches nothing)."""
    if is_refusal(output, refusal_texts):
        return REFUSED
    said = f" {normalise_answer(output)} "
    accepted = filter(None, map(normalise_answer, aliases))
    return CORRECT if any(f" {alias} " in said for alias in accepted) else WRONG


def judge_choice(
    output: str, letters: Sequence[str], gold: str, refusal_texts: Sequence[str] = (), choices: Sequence[str] = ()
) -> str:
    """correct | wrong | refused | unparsed, for the option that the output names, or whose text (``choices``) it is.

    A sentence of the pool is no refusal where it is an option's text.
    """
    named = _named_letter(output, letters)
    spelt = _spelt_option(output, letters, choices)
    said = named or spelt
    if _holds_refusal(output, refusal_texts) or (spelt is None and _pool_sentence(output)):
        return REFUSED
    if said is None:
        return UNPARSED
    return CORRECT if said == gold else WRONG


def judge(sample: Mapping[str, Any], output: str, refusal_texts: Sequence[str] = ()) -> str:
    """The verdict on one output, by the task of its row of ``samples``."""
    if sample["task"] == "oeqa":
        return judge_open(output, sample["aliases"], refusal_texts)
    return judge_choice(output, _letters(sample), sample["answer"], refusal_texts, sample["choices"])


def judge_reference(sample: Mapping[str, Any], output: str) -> str:
    """The verdict of the literature's judge, for numbers beside published ones (CRaFT's fork of opencompass).

    Refused iff "i don't know", ASCII apostrophe, is in the lower-cased output. Open: correct iff a lower-cased alias
    is a substring (an empty alias matches nothing; there, everything). Choice: :func:`reference_option`.
    """
    if "i don't know" in output.lower():
        return REFUSED
    if sample["task"] == "oeqa":
        said = output.lower().strip()
        return CORRECT if any(alias.lower() in said for alias in sample["aliases"] if alias) else WRONG
    option = reference_option(output, _letters(sample))
    if option is None:
        return UNPARSED
    return CORRECT if option == sample["answer"] else WRONG


def reference_option(output: str, letters: Sequence[str]) -> str | None:
    """The letter that opencompass' ``first_option_postprocess`` reads, by the first of these rules that finds one.

    A letter that ends the text; after "answer:"; after "the answer is"; that starts the text and stands alone; in
    alphabetical order, any that comes after a digit 1; before a colon; the first of ``letters`` anywhere. None where
    there is none. Restated: its rules for Chinese are left out.
    """
    one = f"([{''.join(letters)}])"
    rules = (
        rf"[\s:,]{one}[,.]?$",
        rf"(?i:answer)\s*:\s*{one}",
        rf"[Tt]he answer is:?\s+(?:option:?\s+)?\(?\*{{0,2}}{one}",
        rf"[Tt]he (?:correct answer|answer to the question) is:?\s+(?:option:?\s+)?\(?{one}",
        rf"[Tt]he correct (?:answer|option|answer option) is.*?boxed{{{one}}}",
        rf"^{one}[\s,:.$]",
        r"1.\s?(.*)$",  # meant for lists ("1. B"), but its dot is any character
        rf"{one}:",
        one,
    )
    for rule in rules:
        found = re.search(rule, output.strip(), re.DOTALL)
        if letter := found and next((a for a in letters if a in found.group(1)), None):
            return letter
    return None


def normalise_answer(text: str) -> str:
    """Lower-case words without punctuation or English articles, single-spaced; never null, may be empty."""
    folded = re.sub(r"(?<=\d),(?=\d{3})", "", _fold(text).replace("'", ""))  # 1,000 is 1000
    folded = re.sub(r"([\u3040-\u30ff\u3400-\u9fff])", r" \1 ", folded)  # no spaces between Han and kana words
    folded = re.sub(r"(?<!\d)\.|\.(?!\d)", " ", folded)  # 3.5 does not hold a 3
    # Marks (category M) are vowels of Indic and other scripts: without them words would fall apart.
    words = "".join(c if c.isalnum() or c == "." or unicodedata.category(c)[0] == "M" else " " for c in folded).split()
    kept = [w for w in words if w not in ("a", "an", "the")]
    return " ".join(kept or words)  # "The The" and "A" are answers too


def _letters(sample: Mapping[str, Any]) -> list[str]:
    return [chr(ord("A") + i) for i in range(len(sample["choices"]))]


def _named_letter(output: str, letters: Sequence[str]) -> str | None:
    # The letter stands alone: "B", "(B)", "**B.**", "B. carbon"; but "A dog" is an article and its noun.
    option = rf"[\s(*]*([{''.join(letters)}])(?=[).:,*]|\s*$|\s*\n)"
    found = re.match(option, output) or re.search(rf"(?i:answer(?: is|:)){option}", output)
    return found.group(1) if found else None


def _spelt_option(output: str, letters: Sequence[str], choices: Sequence[str]) -> str | None:
    """The one option whose text the output is, letter in front or not; else the one whose text it starts with."""
    said = normalise_answer(re.sub(r"^[\s(*]*[A-Z][).:,*]+\s", "", output))
    texts = dict(zip(letters, map(normalise_answer, choices), strict=False))
    same = [letter for letter, text in texts.items() if text and text == said]
    begun = [letter for letter, text in texts.items() if text and f"{said} ".startswith(f"{text} ")]
    fitting = same or begun
    return fitting[0] if len(fitting) == 1 else None


def _holds_refusal(output: str, refusal_texts: Sequence[str]) -> bool:
    return bool(_phrases(tuple(refusal_texts)).search(_fold(output)))


def _pool_sentence(output: str) -> bool:
    return not _POOL.isdisjoint(map(_fold, re.split(r"[.,;:!?\n]+", output)))


@lru_cache(maxsize=64)
def _phrases(refusal_texts: tuple[str, ...]) -> re.Pattern[str]:
    """One pattern for all phrases. A Latin one is whole words: "pass" does not refuse a passenger."""
    phrases = (_fold(phrase).rstrip(". ") for phrase in (*REFUSALS, *refusal_texts))
    return re.compile("|".join(rf"(?<![a-z0-9]){re.escape(p)}(?![a-z0-9])" for p in phrases if p))


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("‘", "'")
    return " ".join(folded.split())


_POOL = frozenset(_fold(sentence).rstrip(".") for sentence in REFUSAL_POOL)
