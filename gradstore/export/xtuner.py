"""Training data for xtuner: with weights as GRAIT's fork reads them, and without for xtuner itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from gradstore.errors import SchemaError
from gradstore.export.manifest import Example, json_text, prepare, write_export

README = """\
# Training data for xtuner

- `grait.json` is for the fork of xtuner 0.1.23 in GRAIT's repository
  (https://github.com/opendatalab/GRAIT, folder `xtuner`). It reads `alpha` and `beta` from the
  first turn of each conversation, and its loss is `alpha * loss + beta`, where `loss` is the mean
  over the tokens of the sample. `alpha` is the weight; `beta` is 0 (a constant has no gradient, but
  the fork requires the key).
- `plain.json` is the same without `alpha` and `beta`, for xtuner 0.2.0. Nothing there reads a
  weight per sample: every sample counts as 1, and what the weights would have done is lost.

Both are JSON lists of `{"conversation": [...], "sample_id": ..., "group": ...}`, read with
`dataset_map_fn=None` and the `template_map_fn` of your model. `"output_with_loss": false` marks the
few-shot turns of a chat, which are not trained on; every turn has the key, as `datasets` would fill
a missing one with null, which counts as false. The rows of a model without a chat template lack the
space between prompt and answer.

`examples/xtuner` of gradstore's repository has configs for both, a map function that gives that
space back, and `replicate.py`, which turns weights into whole copies for xtuner 0.2.0.

With the fork, set the batch size to 1 and accumulate (GRAIT: 16 steps on 4 GPUs), and leave
`pack_to_max_length`, `use_varlen_attn` and sequence parallelism off: each of these fails or loses
the weights. It reads the file in order in every epoch; the rows come shuffled, with a fixed seed.
`manifest.json` says what the rows were made from.
"""


def write_xtuner(examples: Sequence[Example], out: Path, provenance: Mapping[str, object]) -> list[Path]:
    """Write ``out/xtuner``: grait.json, plain.json, README.md and manifest.json; return their paths."""
    rows = prepare(examples)
    texts = {
        "grait.json": json_text([_row(e, weighted=True) for e in rows], indent=1),
        "plain.json": json_text([_row(e, weighted=False) for e in rows], indent=1),
        "README.md": README,
    }
    return write_export("xtuner", rows, texts, out, provenance)


def _row(example: Example, weighted: bool) -> dict[str, object]:
    turns = _turns(example)
    if weighted:
        turns[0] |= {"alpha": float(example.weight), "beta": 0.0}
    return {"conversation": turns, "sample_id": example.sample_id, "group": example.group}


def _turns(example: Example) -> list[dict[str, object]]:
    """Pair an example's messages into turns of input and output; only the last output is trained on."""
    if isinstance(example.prompt, str) or isinstance(example.completion, str):
        return [_turn("", str(example.prompt), str(example.completion).removeprefix(" "), last=True)]
    messages = [*example.prompt, *example.completion]
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
    roles = [m["role"] for m in messages]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise SchemaError(
            f"The messages of sample {example.sample_id} have the roles {roles}: xtuner reads an optional "
            "system message, then user and assistant in turns. Change the prompt, or export to trl."
        )
    texts = [m["content"] for m in messages]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    return [
        _turn(system if i == 0 else "", said, answer, last=i == len(pairs) - 1)
        for i, (said, answer) in enumerate(pairs)
    ]


def _turn(system: str, said: str, answer: str, last: bool) -> dict[str, object]:
    return {"system": system, "input": said, "output": answer, "output_with_loss": last}
