"""Score stored vectors against a few targets as FAISS or bergson does; one timing for each line on standard input.

python query_scores.py faiss|faiss-fp16|bergson|bergson-float32 VECTORS.npy TARGETS.npy [--threads 2] [--k 10]

VECTORS is (n, dim) float16, TARGETS (q, dim) float32. Loading and conversion come first and are not timed; then
`ready` is printed, and seconds for every line that comes in. What is timed:

faiss            IndexFlatIP.search of the targets for the k best: rows are held as float32
faiss-fp16       the same with rows held as float16 (IndexScalarQuantizer QT_fp16)
bergson          its Scorer (score/scorer.py) on batches of 1024 float16 rows, which it widens to its float32
bergson-float32  the same on rows that are float32 already, as its Attributor keeps them: twice the memory

Needs faiss-cpu, or bergson 2.5.1; nothing of this repository.
"""

import argparse
import sys
import time

import numpy as np

BATCH = 1024


def faiss_search(args, vectors, targets):
    import faiss

    faiss.omp_set_num_threads(args.threads)
    dim = vectors.shape[1]
    if args.way == "faiss":
        index = faiss.IndexFlatIP(dim)
    else:
        index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:BATCH].astype(np.float32))
    for start in range(0, len(vectors), BATCH):
        index.add(np.ascontiguousarray(vectors[start : start + BATCH], np.float32))
    return lambda: index.search(targets, args.k)


def bergson_scores(args, vectors, targets):
    import torch
    from bergson.score.score_writer import InMemorySequenceScoreWriter
    from bergson.score.scorer import Scorer

    torch.set_num_threads(args.threads)
    rows = torch.from_numpy(np.array(vectors, np.float16 if args.way == "bergson" else np.float32))
    writer = InMemorySequenceScoreWriter(len(rows), len(targets))
    query = {"all": torch.from_numpy(targets)}
    scorer = Scorer(query, ["all"], writer, device=torch.device("cpu"), dtype=torch.float32)
    batches = [
        (list(range(s, min(s + BATCH, len(rows)))), {"all": rows[s : s + BATCH]}) for s in range(0, len(rows), BATCH)
    ]
    return lambda: [scorer(indices, grads) for indices, grads in batches]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=["faiss", "faiss-fp16", "bergson", "bergson-float32"])
    parser.add_argument("vectors")
    parser.add_argument("targets")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--k", type=int, default=10)
    args = parser.parse_args()
    vectors, targets = np.load(args.vectors, mmap_mode="r"), np.load(args.targets)
    run = (faiss_search if args.way.startswith("faiss") else bergson_scores)(args, vectors, targets)
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        run()
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
