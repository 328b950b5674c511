"""How long TRAK's projection to `--dim` floats takes, a row of gradients, on CPU in float32.

python trak_projection.py --parameters P [--rows 16] [--dim 8192] [--type rademacher|normal] [--threads 2]
python trak_projection.py --features features.npy --out vectors.npy [--dim 8192] [--threads 2]

Needs traker 0.3.2. Timed is one `BasicProjector.project`, which is what TRAK falls back to without CUDA, with its own
block of 100 columns. `TRAKer` itself takes `--type normal` on CPU, which draws faster there than `rademacher`. All
P * dim entries are drawn again in every call, whatever the number of rows, so seconds a row fall as rows are added:
give it as many as the gradients of one batch. Gradients themselves are not timed. A first call of one row over one
block of columns warms up.

Without `--features` the rows are standard normal. TRAK does not divide by sqrt(dim). Prints one JSON line;
`peak_rss_mb` covers the whole process.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from trak.projectors import BasicProjector, ProjectionType


def peak_rss_mb() -> float:
    """Peak resident memory of this process. `ru_maxrss` will not do: a child begins with its parent's peak."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def projector(parameters: int, dim: int, kind: str) -> BasicProjector:
    return BasicProjector(
        grad_dim=parameters,
        proj_dim=dim,
        seed=0,
        proj_type=ProjectionType(kind),
        device=torch.device("cpu"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    rows = parser.add_mutually_exclusive_group(required=True)
    rows.add_argument("--parameters", type=int, help="length of a random row")
    rows.add_argument("--features", type=Path, help="rows to project, (n, parameters) in a .npy file")
    parser.add_argument("--rows", type=int, default=16, help="random rows, projected in one call")
    parser.add_argument("--dim", type=int, default=8192)
    parser.add_argument("--type", choices=[x.value for x in ProjectionType], default="rademacher")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where the projected rows go, (n, dim)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.features:
        features = torch.from_numpy(np.load(args.features).astype(np.float32, copy=False))
    else:
        features = torch.randn(args.rows, args.parameters, generator=torch.Generator().manual_seed(0))
    parameters = features.shape[1]
    projector(parameters, min(args.dim, 100), args.type).project(features[:1], model_id=0)
    full = projector(parameters, args.dim, args.type)
    started = time.perf_counter()
    vectors = full.project(features, model_id=0)
    seconds = time.perf_counter() - started
    if args.out:
        np.save(args.out, vectors.numpy())
    print(
        json.dumps(
            {
                "seconds_per_row": seconds / len(features),
                "rows": len(features),
                "parameters": parameters,
                "floats_per_row": vectors.shape[1],
                "peak_rss_mb": peak_rss_mb(),
            }
        )
    )


if __name__ == "__main__":
    main()
