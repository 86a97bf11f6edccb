#!/usr/bin/env bash
# The same on all GPUs of one machine: each process trains on its share of every batch.
#   SOURCE=Tongyi-MAI/Z-Image IMAGES=images OUT=z-image-pixel GPUS=8 launch/many-gpus.sh [--set KEY=VALUE ...]
export LAUNCHER="torchrun --standalone --nproc-per-node ${GPUS:-8} --no-python"
exec bash "$(dirname "$0")/one-gpu.sh" "$@"
