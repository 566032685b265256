#!/usr/bin/env bash
# What a machine with a GPU is for: the large weights, the memory and time table of the talk, exactness on the device.
#
#   bash benchmarks/on_gpu.sh DATA OUT
#
# DATA holds train/BSD400_gray180, train/BSDS500_train_color_jpg and test/Set12_gray. Trainings go on where they were stopped.
# DEVICE=cpu STEPS=2 SIZE=small bash benchmarks/on_gpu.sh DATA OUT   tries all of it on a machine without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
data=$1 out=$2
device=${DEVICE:-cuda} python=${PYTHON:-.venv/bin/python} recipes=pnp_mlpatch/training/recipes
steps=() quick=()
[ -n "${STEPS:-}" ] && steps=(--steps "$STEPS")
[ "${SIZE:-}" = small ] && quick=(--quick) && steps+=(--set batch=1)
mkdir -p "$out"

"$python" -m pnp_mlpatch.cli train --config "$recipes/mlpatch-grey-large.toml" --device "$device" "${steps[@]}" \
    --data "$data/train/BSD400_gray180" --validation "$data/test/Set12_gray" --out "$out/mlpatch-grey-large"
"$python" -m pnp_mlpatch.cli train --config "$recipes/mlpatch-colour-large.toml" --device "$device" "${steps[@]}" \
    --data "$data/train/BSDS500_train_color_jpg" --out "$out/mlpatch-colour-large"
"$python" -m pnp_mlpatch.cli train --config "$recipes/mlpatch-kappa.toml" --device "$device" "${steps[@]}" --out "$out/mlpatch-kappa"
"$python" benchmarks/memory.py --gpu --device "$device" "${quick[@]}" --json "$out/memory.json"
"$python" benchmarks/exactness.py --size 32
