"""Verdicts on what a model said: correct, wrong, refused or (multiple choice only) unparsed.

A refusal is looked for first, as in CRaFT. Rules, and how they differ from CRaFT's released evaluator:

* refused: a refusal phrase occurs in the normalised output. CRaFT knows only "i don't know" with an ASCII
  apostrophe; here curly apostrophes, "do not know" and the papers' other refusals count too.
* open questions: correct iff the words of some alias occur in the output, in a row, after normalising both
  (NFKC, case folded, punctuation to spaces, articles dropped). CRaFT matches substrings, so that the alias
  "one" is found in "someone"; whole words are not fooled by that.
* multiple choice: the letter that the output starts with, or that "answer is" / "answer:" names. CRaFT falls
  back to the first capital A–D anywhere ("Actually" is A); here such an output is unparsed.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

CORRECT, WRONG, REFUSED, UNPARSED = "correct", "wrong", "refused", "unparsed"
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


def is_refusal(output: str, refusal_texts: Sequence[str] = ()) -> bool:
    """Whether the output holds a refusal phrase, or one of ``refusal_texts``."""
    said = _fold(output)
    phrases = (_fold(phrase).rstrip(". ") for phrase in (*REFUSALS, *refusal_texts))
    return any(phrase in said for phrase in phrases if phrase)


def judge_open(output: str, aliases: Sequence[str], refusal_texts: Sequence[str] = ()) -> str:
    """correct | wrong | refused; ``aliases`` are the accepted answers (an empty one matches nothing)."""
    if is_refusal(output, refusal_texts):
        return REFUSED
    said = f" {normalise_answer(output)} "
    accepted = filter(None, map(normalise_answer, aliases))
    return CORRECT if any(f" {alias} " in said for alias in accepted) else WRONG


def judge_choice(output: str, letters: Sequence[str], gold: str, refusal_texts: Sequence[str] = ()) -> str:
    """correct | wrong | refused | unparsed, for the option that the output names."""
    if is_refusal(output, refusal_texts):
        return REFUSED
    # The letter stands alone: "B", "(B)", "**B.**", "B. carbon"; but "A dog" is an article and its noun.
    option = rf"[\s(*]*([{''.join(letters)}])(?=[).:,*]|\s*$|\s*\n)"
    found = re.match(option, output) or re.search(rf"(?i:answer(?: is|:)){option}", output)
    if found is None:
        return UNPARSED
    return CORRECT if found.group(1) == gold else WRONG


def judge(sample: Mapping[str, Any], output: str, refusal_texts: Sequence[str] = ()) -> str:
    """The verdict on one output, by the task of its row of ``samples``."""
    if sample["task"] == "oeqa":
        return judge_open(output, sample["aliases"], refusal_texts)
    letters = [chr(ord("A") + i) for i in range(len(sample["choices"]))]
    return judge_choice(output, letters, sample["answer"], refusal_texts)


def normalise_answer(text: str) -> str:
    """Lower-case words without punctuation or English articles, single-spaced; never null, may be empty."""
    folded = re.sub(r"(?<=\d),(?=\d{3})", "", _fold(text).replace("'", ""))  # 1,000 is 1000
    folded = re.sub(r"([\u3040-\u30ff\u3400-\u9fff])", r" \1 ", folded)  # no spaces between Han and kana words
    folded = re.sub(r"(?<!\d)\.|\.(?!\d)", " ", folded)  # 3.5 does not hold a 3
    # Marks (category M) are vowels of Indic and other scripts: without them words would fall apart.
    words = "".join(c if c.isalnum() or c == "." or unicodedata.category(c)[0] == "M" else " " for c in folded).split()
    kept = [w for w in words if w not in ("a", "an", "the")]
    return " ".join(kept or words)  # "The The" and "A" are answers too


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("‘", "'")
    return " ".join(folded.split())
