"""xtuner 0.2.0, which knows no weights: the settings of grait.py, on rows that replicate.py copied 3 times a weight.

    python replicate.py out/xtuner/grait.json replicated.json --copies 3
    NPROC_PER_NODE=4 xtuner train replicated.py --deepspeed deepspeed_zero2

Once through the copies is three times through the rows, so GRAIT's 3 epochs are 1 here. With other ``--copies`` c,
3 / c epochs keep the number of steps.
"""

from mmengine.config import read_base

with read_base():
    from .grait import *  # noqa: F403

data_path = "replicated.json"
max_epochs = 1

train_dataloader["dataset"]["dataset"]["data_files"]["train"] = data_path  # noqa: F405
train_dataloader["dataset"]["dataset_map_fn"] = None  # noqa: F405
param_scheduler[0]["end"] = max_epochs  # noqa: F405
train_cfg["max_epochs"] = max_epochs  # noqa: F405
