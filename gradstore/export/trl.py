"""Training data for TRL, with the trainer that reads its weights: TRL 1.16 has none per sample."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from gradstore.export.manifest import Example, json_text, prepare, write_export

TRAINER = "weighted_sft.py"
README = """\
# Training data for TRL

`train.jsonl` has one row per sample: `prompt` and `completion` (text, or chat messages), `weight`,
`sample_id`, and `group`: `unknown` questions are answered with a refusal, `known` ones with their
answer. `manifest.json` says what the rows were made from.

```sh
pip install "trl[peft]>=1.16,<2"
python weighted_sft.py --model MODEL --data train.jsonl --out ../adapter
torchrun --nproc-per-node 4 weighted_sft.py --model MODEL --out ../adapter --accumulation 2
```

Both train on 64 samples a step. `MODEL` is the model the selection was made with; `--help` lists
the rest. In your own script, use `WeightedSFTTrainer` where you would use `SFTTrainer`. The settings
of CRaFT, GRAIT, LESS and R-Tuning, with LoRA, QLoRA or all parameters, are in `examples/trl_sft.py`
of gradstore's repository, which finds the trainer here.

## What a weight means

With `--loss sample` (the default, and GRAIT's), a sample's loss is its mean over its completion
tokens, times its weight, and a step averages over its samples. A weight of 2 doubles what the
sample adds to the gradient, 0 takes it out. With `--loss token`, each token counts alike, so long
completions count more; with weights of 1 this is TRL's own loss. Neither depends on the batch size,
on gradient accumulation or on the number of processes.

## What loses weights

Plain `SFTTrainer` drops the column without a word. `WeightedSFTTrainer` refuses the settings under
which TRL would train without weights: `packing`, `eval_packing`, `padding_free`,
`use_liger_kernel`, `label_smoothing_factor`, a `loss_type` other than `nll`, streamed datasets,
context or sequence parallelism, and the router loss of a mixture of experts. TRL leaves out samples
whose completion lies beyond `--max-length`.
"""


def write_trl(examples: Sequence[Example], out: Path, provenance: Mapping[str, object]) -> list[Path]:
    """Write ``out/trl``: train.jsonl, weighted_sft.py, README.md and manifest.json; return their paths."""
    rows = prepare(examples)
    texts = {
        "train.jsonl": "".join(json_text(_row(e)) for e in rows),
        TRAINER: trainer_text(),
        "README.md": README,
    }
    return write_export("trl", rows, texts, out, provenance)


def trainer_text() -> str:
    """Read the trainer as text: importing it would import torch."""
    return files("gradstore").joinpath("models", TRAINER).read_text(encoding="utf-8")


def _row(example: Example) -> dict[str, object]:
    return {
        "prompt": example.prompt,
        "completion": example.completion,
        "weight": float(example.weight),
        "sample_id": example.sample_id,
        "group": example.group,
    }
