#!/usr/bin/env bash
# From a source and its images to a trained pixel model on one GPU. Run it again after a stop: it goes on.
#   SOURCE=Tongyi-MAI/Z-Image IMAGES=images OUT=z-image-pixel launch/one-gpu.sh [--set KEY=VALUE ...]
set -euo pipefail
: "${SOURCE:?a pipeline folder or Hub id}" "${IMAGES:?made by l2p data synthesize}" "${OUT:?folder to write to}"

recipe="${RECIPE:-lift}"
images_to_fit=()
[[ "$recipe" != lift ]] || images_to_fit=(--images "$IMAGES")
l2p convert "$SOURCE" "$OUT/converted" --recipe "$recipe" "${images_to_fit[@]}"
# LAUNCHER: many-gpus.sh starts the training through it.
${LAUNCHER:-} l2p train "$OUT/converted" "$IMAGES" "$OUT/run" "$@"
