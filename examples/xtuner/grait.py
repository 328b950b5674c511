"""xtuner 0.1.23 as in GRAIT's repository (folder ``xtuner``): QLoRA with one weight a sample, from grait.json.

The settings are those of its train/mmlu/llama3-8b/grait.py (arXiv 2502.05911), without the chats it holds while it
trains. What the weights need: batch size 1, nothing packed, no variable-length attention, no sequence parallelism.

    NPROC_PER_NODE=4 xtuner train grait.py --deepspeed deepspeed_zero2
"""

import torch
from datasets import load_dataset
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook, DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR
from peft import LoraConfig
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from xtuner.dataset import process_hf_dataset
from xtuner.dataset.collate_fns import default_collate_fn
from xtuner.dataset.map_fns import template_map_fn_factory
from xtuner.engine.runner import TrainLoop
from xtuner.model import SupervisedFinetune
from xtuner.utils import PROMPT_TEMPLATE

with read_base():
    from .map_fn import weighted_turns

model_path = "meta-llama/Meta-Llama-3-8B-Instruct"  # the model the selection was made with
prompt_template = PROMPT_TEMPLATE.llama3_chat  # that of the model; without one see map_fn.plain_text
data_path = "out/xtuner/grait.json"
max_epochs = 3
accumulative_counts = 16  # on 4 GPUs: 64 samples a step

tokenizer = {
    "type": AutoTokenizer.from_pretrained,
    "pretrained_model_name_or_path": model_path,
    "padding_side": "right",
}
model = {
    "type": SupervisedFinetune,
    "use_varlen_attn": False,
    "llm": {
        "type": AutoModelForCausalLM.from_pretrained,
        "pretrained_model_name_or_path": model_path,
        "torch_dtype": torch.float16,
        "quantization_config": {
            "type": BitsAndBytesConfig,
            "load_in_4bit": True,
            "bnb_4bit_compute_dtype": torch.float16,
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_quant_type": "nf4",
        },
    },
    # no target_modules: xtuner then takes every linear layer but the head
    "lora": {
        "type": LoraConfig,
        "r": 64,
        "lora_alpha": 16,
        "lora_dropout": 0.1,
        "bias": "none",
        "task_type": "CAUSAL_LM",
    },
}
train_dataloader = {
    "batch_size": 1,  # the fork's loss fails on more
    "num_workers": 4,
    "dataset": {
        "type": process_hf_dataset,
        "dataset": {"type": load_dataset, "path": "json", "data_files": {"train": data_path}},
        "tokenizer": tokenizer,
        "max_length": 2048,
        "dataset_map_fn": weighted_turns,
        "template_map_fn": {"type": template_map_fn_factory, "template": prompt_template},
        "remove_unused_columns": True,
        "shuffle_before_pack": False,
        "pack_to_max_length": False,
        "use_varlen_attn": False,
    },
    "sampler": {"type": DefaultSampler, "shuffle": False},  # the rows were shuffled when they were exported
    "collate_fn": {"type": default_collate_fn, "use_varlen_attn": False},
}
optim_wrapper = {
    "type": AmpOptimWrapper,
    "optimizer": {"type": AdamW, "lr": 2e-4, "betas": (0.9, 0.999), "weight_decay": 0},
    "clip_grad": {"max_norm": 1, "error_if_nonfinite": False},
    "accumulative_counts": accumulative_counts,
    "loss_scale": "dynamic",
    "dtype": "float16",
}
param_scheduler = [
    {
        "type": CosineAnnealingLR,
        "eta_min": 0.0,
        "by_epoch": True,
        "begin": 0,
        "end": max_epochs,
        "convert_to_iter_based": True,
    }
]
train_cfg = {"type": TrainLoop, "max_epochs": max_epochs}
default_hooks = {
    "timer": {"type": IterTimerHook},
    "logger": {"type": LoggerHook, "log_metric_by_epoch": False, "interval": 10},
    "param_scheduler": {"type": ParamSchedulerHook},
    "checkpoint": {"type": CheckpointHook, "by_epoch": False, "interval": 100, "max_keep_ckpts": 2},
    "sampler_seed": {"type": DistSamplerSeedHook},
}
env_cfg = {
    "cudnn_benchmark": False,
    "mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0},
    "dist_cfg": {"backend": "nccl"},
}
randomness = {"seed": 0, "deterministic": False}
log_processor = {"by_epoch": False}
log_level = "INFO"
visualizer, load_from, resume, custom_hooks = None, None, False, []
