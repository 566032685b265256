#!/usr/bin/env bash
# What a machine with a GPU is for, in stages. What is finished is not repeated, what is not goes on.
#
#   bash benchmarks/on_gpu.sh [--device cuda] [--quick] [--minutes 9] [--data DATA] [STAGE ...]
#
# Stages, by default all of them in this order:
#   memory      the talk's table: memory and time of a training step, 128 ... 1024 pixels (memory.py)
#   denoising   time and memory of denoising, 128 ... 4096 pixels (gpu.py)
#   projectors  ASTRA's GPU projectors against its CPU ones and the package's own (gpu.py)
#   whole       data step and whole reconstruction, 512 x 512 from 60 views; wanted: 0.5 s (gpu.py)
#   exactness   adjoints and data steps on the GPU (exactness.py)
#   grey        the weights of the recipe mlpatch-grey-large
#   colour      the weights of the recipe mlpatch-colour-large
#
# DATA holds train/BSD400_gray180, train/BSDS500_train_color_jpg and test/Set12_gray. Without it the
# trainings are left out. A call ends after --minutes. Call it again, with the same WORK, until it
# says that nothing is left. WORK (by default runs/on_gpu, or runs/on_gpu_quick) gets a table or the
# weights of each stage, and the checkpoints of the trainings. If OUT is set, all of that is copied
# there, without the checkpoints of trainings that are finished: give such a folder as WORK to go on
# elsewhere.
# --device cpu --quick   tries all of it without a GPU, in tiny forms.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python} device=cuda minutes=9 data='' quick=() stages=() failed=() left=()
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=$2; shift ;;
        --minutes) minutes=$2; shift ;;
        --data) data=$2; shift ;;
        --quick) quick=(--quick) ;;
        -*) echo "on_gpu.sh: no option $1" >&2; exit 2 ;;
        *) stages+=("$1") ;;
    esac
    shift
done
[ ${#stages[@]} -gt 0 ] || stages=(memory denoising projectors whole exactness grey colour)
work=${WORK:-runs/on_gpu${quick:+_quick}}
mkdir -p "$work"

attempt() { # RESULT COMMAND ...: run a command unless its result is there, within the time
    local result=$work/$1 code=0 spare=$((60 * minutes - SECONDS))
    shift
    if [ -e "$result" ]; then echo "$result: finished before"; return; fi
    if [ $spare -lt 5 ]; then left+=("$result"); return; fi
    timeout --signal=INT --kill-after=20 $spare "$@" || code=$?
    case $code in
        0) ;;
        124 | 130 | 137) left+=("$result") ;;
        *) failed+=("$result") ;;
    esac
}

benchmark() { # NAME PROGRAM ARGUMENT ...: a program that writes its tables as JSON
    local name=$1 program=$2
    shift 2
    attempt "$name.json" "$python" "benchmarks/$program.py" "$@" "${quick[@]}" --json "$work/$name.json"
}

training() { # NAME IMAGES [VALIDATION]: a recipe, from its last checkpoint
    local name=mlpatch-$1-large short=()
    if [ -z "$data" ]; then echo "$name: left out, it needs --data"; return; fi
    [ ${#quick[@]} -gt 0 ] && short=(--steps 2 --set batch=1 --set crop=16 --set size=32)
    [ $# -gt 2 ] && short+=(--validation "$data/$3")
    attempt "$name/weights.safetensors" "$python" -m pnp_mlpatch.cli train --device "$device" \
        --config "pnp_mlpatch/training/recipes/$name.toml" --out "$work/$name" --data "$data/$2" \
        --set checkpoint_every=200 "${short[@]}"
}

for stage in "${stages[@]}"; do
    case $stage in
        memory)
            for network in MLPatch U-Net DRU-Net IRCNN DnCNN; do
                benchmark "memory-$network" memory --cuda --device "$device" --networks "$network"
            done ;;
        denoising | projectors | whole) benchmark "$stage" gpu "$stage" --device "$device" ;;
        exactness)
            size=64; [ ${#quick[@]} -gt 0 ] && size=16
            attempt exactness.md bash -c '"$0" benchmarks/exactness.py --size "$1" > "$2.part" &&
                mv "$2.part" "$2"' "$python" "$size" "$work/exactness.md" ;;
        grey) training grey train/BSD400_gray180 test/Set12_gray ;;
        colour) training colour train/BSDS500_train_color_jpg ;;
        *) echo "on_gpu.sh: no stage $stage" >&2; exit 2 ;;
    esac
done

if [ -n "${OUT:-}" ]; then
    mkdir -p "$OUT"
    cp "$work"/*.json "$work"/*.md "$OUT" 2>/dev/null
    for run in "$work"/mlpatch-*-large; do
        [ -d "$run" ] || continue
        mkdir -p "$OUT/${run##*/}"
        cp "$run"/log.csv "$OUT/${run##*/}" 2>/dev/null
        cp "$run"/weights.safetensors "$OUT/${run##*/}" 2>/dev/null ||
            cp "$run"/checkpoint.pt "$OUT/${run##*/}" 2>/dev/null
    done
fi
for result in "${failed[@]}"; do echo "failed: $result"; done
for result in "${left[@]}"; do echo "left for the next call: $result"; done
[ $((${#failed[@]} + ${#left[@]})) -gt 0 ] || echo "nothing is left"
[ ${#failed[@]} -eq 0 ]
