"""How long bergson takes to collect the gradients of a LoRA adapter, one vector a sample, on CPU in float32.

python bergson_gradients.py FOLDER --target per_module|global [--dim 8192] [--projection-dim 16]
    [--batch-tokens 2048] [--threads 2] --out vectors.npy

FOLDER holds `model/` (base model and tokenizer), `adapter/` (peft's save_pretrained) and `samples.json`, a list of
{"ids": [...], "start": n} whose labels are the ids from index n on. Needs bergson 2.5.1 and peft, nothing of this
repository. With a CPU build of torch, uninstall the torchvision and torchaudio that bergson brings: imports fail.

Timed is `collect_gradients`, which is what `bergson build` runs for each worker: forward and backward over bergson's
own batches, projection, and writing of the index. Imports, loading, tokens and batch plan are outside, and one batch
goes first, so the `per_module` matrices, which bergson keeps, are ready. `global` draws its matrix again in every
batch, so it gains from a larger `--batch-tokens`, at the price of memory.

Prints one JSON line, with what failed under `error`; `peak_rss_mb` covers the process, imports and model included.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bergson import IndexConfig, collect_gradients, load_gradients
from bergson.data import allocate_batches
from bergson.utils.worker_utils import processor_for, setup_model_and_peft
from datasets import Dataset


def peak_rss_mb() -> float:
    """Peak resident memory of this process. `ru_maxrss` will not do: a child begins with its parent's peak."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def dataset(path: Path) -> Dataset:
    """The columns `bergson build` makes: input_ids, labels with -100 on the prompt, length."""
    samples = json.loads(path.read_text())
    return Dataset.from_dict(
        {
            "input_ids": [x["ids"] for x in samples],
            "labels": [[-100] * x["start"] + x["ids"][x["start"] :] for x in samples],
            "length": [len(x["ids"]) for x in samples],
        }
    )


def collect(data: Dataset, batches: list[list[int]], run: Path, config: IndexConfig, **kwargs: Any) -> Path:
    """Write the index of `data` under `run`; the folder it is in."""
    config = replace(config, run_path=str(run))
    config.partial_run_path.mkdir(parents=True)
    collect_gradients(data=data, batches=batches, cfg=config, **kwargs)
    return config.partial_run_path


def measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Seconds and the vectors' shape; saves the vectors to `args.out`."""
    # bergson finds the base model through the adapter, which may name none, or one that has moved.
    adapter = work / "adapter"
    shutil.copytree(args.folder / "adapter", adapter)
    described = json.loads((adapter / "adapter_config.json").read_text())
    described["base_model_name_or_path"] = str((args.folder / "model").resolve())
    (adapter / "adapter_config.json").write_text(json.dumps(described))

    config = IndexConfig(
        run_path=str(work / "run"),
        model=str(adapter),
        precision="fp32",
        projection_target=args.target,
        projection_dim=args.dim if args.target == "global" else args.projection_dim,
        token_batch_size=args.batch_tokens,
        # The sum over tokens, bergson's default: against the mean, it only scales rows.
        loss_reduction="sum",
    )
    model, adapters = setup_model_and_peft(config)  # in eval mode: no dropout
    if not adapters:
        raise ValueError("bergson found no LoRA modules in the adapter")
    shared = {"config": config, "model": model, "processor": processor_for(config), "target_modules": adapters}

    data = dataset(args.folder / "samples.json")
    batches = allocate_batches(data["length"][:], config.token_batch_size)
    collect(data.select(batches[0]), [list(range(len(batches[0])))], work / "warm", **shared)
    started = time.perf_counter()
    index = collect(data, batches, work / "run", **shared)
    seconds = time.perf_counter() - started
    vectors = np.array(load_gradients(index), dtype=np.float32)
    np.save(args.out, vectors)
    return {"seconds": seconds, "samples": vectors.shape[0], "floats_per_row": vectors.shape[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", choices=["per_module", "global"], required=True)
    parser.add_argument("--dim", type=int, default=8192, help="floats a row of `global`")
    parser.add_argument("--projection-dim", type=int, default=16, help="p of `per_module`: p * p floats a LoRA matrix")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="padded tokens in a batch, at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bergson takes a GPU whenever torch sees one
    torch.set_num_threads(args.threads)
    logging.basicConfig(stream=sys.stderr, force=True)  # bergson logs to stdout
    report: dict[str, Any] = {"seconds": None, "samples": None, "floats_per_row": None}
    error = None
    with tempfile.TemporaryDirectory() as work, redirect_stdout(sys.stderr):
        try:
            report |= measure(args, Path(work))
        except Exception as e:
            error = f"{type(e).__name__}: {e}"
    print(json.dumps(report | {"peak_rss_mb": peak_rss_mb(), "error": error}))


if __name__ == "__main__":
    main()
