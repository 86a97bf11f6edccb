#!/usr/bin/env bash
# The same on all GPUs of one machine: each process trains on its share of every batch.
#   SOURCE=Tongyi-MAI/Z-Image IMAGES=images OUT=z-image-pixel GPUS=8 launch/many-gpus.sh [--set KEY=VALUE ...]
set -euo pipefail
: "${SOURCE:?a pipeline folder or Hub id}" "${IMAGES:?made by l2p data synthesize}" "${OUT:?folder to write to}"

recipe="${RECIPE:-lift}"
images_to_fit=()
[[ "$recipe" != lift ]] || images_to_fit=(--images "$IMAGES")
l2p convert "$SOURCE" "$OUT/converted" --recipe "$recipe" "${images_to_fit[@]}"
torchrun --standalone --nproc-per-node "${GPUS:-8}" --no-python l2p train "$OUT/converted" "$IMAGES" "$OUT/run" "$@"
