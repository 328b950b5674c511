"""Is a model's arithmetic sound, before hours are spent on it: batching, padding, attention, precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradstore.errors import ModelError
from gradstore.models.adapters import adapter_parameters, add_lora, load_adapter, randomise
from gradstore.models.encoding import Encoded, encode
from gradstore.models.loading import LoadedModel
from gradstore.models.losses import sharing_pays
from gradstore.models.memory import release
from gradstore.models.soundness import NOISY, Finding, Patient, compare, examine, impossible
from gradstore.pipelines import ModelOptions, unsaid
from gradstore.pipelines.model import load
from gradstore.prompts import Prompt, template

QUESTIONS = (
    ("What is the capital of France?", "Paris"),
    ("Who wrote the play in which a prince of Denmark is visited by the ghost of his father?", "William Shakespeare"),
    ("In which year did the first people walk on the moon?", "1969"),
    ("Name the chemical element with the symbol Fe, which is the most common one in the core of the Earth.", "Iron"),
)
ATTENTION = ("eager", "sdpa", "flash_attention_2")


def doctor(
    options: ModelOptions,
    checkpoint: str | Path | None = None,
    *,
    r: int = 8,
    targets: str = "all-linear",
    tell: Callable[[str], None] = unsaid,
) -> list[dict[str, Any]]:
    """Gradients of a few samples, computed in ways that should agree: one dict a comparison, with its verdict.

    The adapter is that of ``checkpoint``, or a random LoRA whose B is not zero. A verdict is ``sound`` where the
    largest relative error of a gradient is below what the precision explains, else ``noisy``.
    """
    settings = replace(options, load_in_4bit=False) if options.load_in_4bit else options
    if options.load_in_4bit:
        tell("4-bit weights are another model; what is compared is the model that they were made from")

    def patient(**changes: Any) -> tuple[Patient, list[tuple[Encoded, Encoded]], LoadedModel]:
        loaded = load(replace(settings, **changes))
        adapted = load_adapter(loaded.model, Path(checkpoint)) if checkpoint else _random_lora(loaded, r, targets)
        one = Patient(adapted, loaded.pad_id, loaded.device, loaded.attention, loaded.dtype)
        return one, _pairs(loaded, options), loaded

    tell(f"batching, padding, sharing and checkpointing, with {settings.attention} attention")
    usual, pairs, loaded = patient()
    findings = examine(usual, pairs, loaded.dtype)
    batch = [e for k in (0, 1) for e in (pair[k] for pair in pairs)]
    limit = NOISY[loaded.dtype.split("/")[0]]
    mine, place = usual.batched(batch).cpu(), loaded.device
    kind_here, attention_here = loaded.dtype, loaded.attention
    del usual, loaded  # one model at a time
    release(place)
    for other in ATTENTION:
        if other != attention_here:
            tell(f"attention {other}")
            findings.append(_other("attention", other, attention_here, mine, limit, patient, batch, attention=other))
    reference = "float32"
    try:
        exact = mine if kind_here == reference else patient(dtype=reference)[0].batched(batch).cpu()
    except RuntimeError as error:
        findings.append(impossible("precision", reference, error))
        return [{**f.__dict__, "verdict": f.verdict} for f in findings]
    for kind in NOISY:
        if kind != reference:
            tell(f"precision {kind}")
            findings.append(_other("precision", kind, reference, exact, NOISY[kind], patient, batch, dtype=kind))
    return [{**f.__dict__, "verdict": f.verdict} for f in findings]


def _other(
    check: str,
    setting: str,
    against: str,
    expected: Any,
    limit: float,
    patient: Callable[..., Any],
    batch: list[Encoded],
    **changes: str,
) -> Finding:
    try:
        one, _, loaded = patient(**changes)
        found = one.batched(batch).cpu()
        del one
        release(loaded.device)
        return compare(check, setting, against, expected, found, limit)
    except (ModelError, ValueError, ImportError, RuntimeError) as error:  # not built in, or no memory left for it
        return impossible(check, setting, error)


def _random_lora(loaded: LoadedModel, r: int, targets: str) -> Any:
    adapted = add_lora(loaded.model, r=r, alpha=2 * r, targets=targets, seed=0)
    randomise(adapter_parameters(adapted), seed=0)
    return adapted


def _pairs(loaded: LoadedModel, options: ModelOptions) -> list[tuple[Encoded, Encoded]]:
    prompt = Prompt(template("refuse"), chat_template=loaded.chat_template)
    found = []
    for question, answer in QUESTIONS:
        sample = {"task": "oeqa", "question": question, "subject": None, "choices": None, "source": "doctor"}
        texts = (answer, prompt.refusal_text)
        first, second = (
            encode(loaded.tokenizer, prompt.ask(sample), prompt.reply(sample, t), options.max_length) for t in texts
        )
        if first.status == second.status == "ok" and sharing_pays(first, second):
            found.append((first, second))
    if not found:
        raise ModelError(f"none of the doctor's questions fits in {options.max_length} tokens: raise --max-length")
    return found
