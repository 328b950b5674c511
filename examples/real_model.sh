#!/usr/bin/env bash
# Teach an 8B chat model to say "I don't know" on open questions: one GPU, `pip install 'gradstore[trl]'`.
# CRaFT's and GRAIT's sizes for MMLU; for TriviaQA they take 8000 known and 2000 unknown.
set -euo pipefail
MODEL=${MODEL:-meta-llama/Llama-3.1-8B-Instruct}
DATA=${1:?usage: real_model.sh QUESTIONS.json (preset nq)}

gradstore build store --data "$DATA" --preset nq --model "$MODEL"
gradstore select store --method grait --known 4000 --unknown 1000 --name grait
gradstore select store --method cor-rait --known 4000 --unknown 1000 --name cor-rait
for name in grait cor-rait; do
    gradstore export store "$name" --to trl --out "out/$name"
    python "out/$name/trl/weighted_sft.py" --model "$MODEL" --out "adapter/$name"
done
