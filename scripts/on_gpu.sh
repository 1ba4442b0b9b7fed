#!/usr/bin/env bash
# Proves and measures splatlearn on a machine with an NVIDIA card: tests, sanitizers, training, benchmark; under nine minutes on an H200.
#
#   OUT=results FOX=../shared/scenes/fox FERN=../shared/scenes/fern bash scripts/on_gpu.sh
#
#   OUT      folder for the results: on_gpu.json sums them up, and each part has its log or JSON beside it
#   WHEEL    a wheel of splatlearn to install; without it one is built here, with nvcc for the card that is here
#   WHEELS   a folder of further wheels to install offline (pycolmap for training, gsplat for the comparison)
#   FOX, FERN   COLMAP folders to train on; left out, that part is skipped
#   PYTHON   the Python that has PyTorch (default: python3)
#   PARTS    which parts to do (default: install tests sanitizers train bench)
#
# Without a card the same parts run on the CPU, with the CUDA kernels emulated, and on_gpu.json says so. The exit status is the number of failed parts.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=$(mkdir -p "${OUT:-on_gpu}" && cd "${OUT:-on_gpu}" && pwd)
PYTHON=${PYTHON:-python3}
PARTS=${PARTS:-install tests sanitizers train bench}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
SITE="$WORK/site"
LEDGER="$WORK/ledger"
DEVICE=cpu
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv,noheader > "$OUT/card.txt" 2>/dev/null && DEVICE=cuda
[ "$DEVICE" = cuda ] || echo "no card: the CPU and the emulated half" > "$OUT/card.txt"
cat "$OUT/card.txt"
[ "$DEVICE" = cuda ] || export SPLATLEARN_CUDA_ARCHS=${SPLATLEARN_CUDA_ARCHS:-90}  # one is proof enough that it compiles

# part NAME SECONDS COMMAND...: runs it within its time, its output in NAME.log, its outcome in the ledger.
part() {
    local name=$1 seconds=$2 begin=$SECONDS status
    shift 2
    timeout "$seconds" "$@" > "$OUT/$name.log" 2>&1
    status=$?
    echo "$name $status $((SECONDS - begin))" | tee -a "$LEDGER"
    [ $status -eq 0 ] || tail -n 15 "$OUT/$name.log"
    return $status
}
wanted() { [[ " $PARTS " == *" $1 "* ]]; }
installed() { "$PYTHON" -c "import $1" 2>/dev/null; }

if wanted install; then
    if [ -z "${WHEEL:-}" ]; then
        part build 240 "$PYTHON" -m pip wheel -q --no-deps --no-index --no-build-isolation -w "$WORK/wheel" . && WHEEL=$(echo "$WORK"/wheel/*.whl)
    fi
    wheels=("${WHEEL:-}")
    [ -z "${WHEELS:-}" ] || wheels+=("$WHEELS"/*.whl)
    part install 120 "$PYTHON" -m pip install -q --no-deps --no-index --no-compile --target "$SITE" "${wheels[@]}"
    # The commands and tests below use what was installed, not the checkout beside it.
    export PYTHONPATH="$SITE${PYTHONPATH:+:$PYTHONPATH}"
    mkdir -p "$WORK/tree" && cp -r tests scripts configs csrc setup.py pyproject.toml README.md "$WORK/tree/"
    [ ! -d ../shared ] || ln -s "$(cd ../shared && pwd)" "$WORK/shared"
    cd "$WORK/tree" || exit 1
    part doctor 60 "$PYTHON" -m splatlearn doctor
else
    export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"  # the checkout, with what was built in place
fi

OPS=(tests/test_ops_forward.py tests/test_ops_backward.py tests/test_gradcheck.py tests/test_photometric.py tests/test_adam.py
     tests/test_rasterization_api.py tests/test_cuda_kernels.py)
if wanted tests; then
    if [ "$DEVICE" = cuda ]; then part tests 200 "$PYTHON" -m pytest -q -p no:cacheprovider "${OPS[@]}" -k "cuda"
    else part tests 400 "$PYTHON" -m pytest -q -p no:cacheprovider "${OPS[@]}" -k "emulated or cuda"; fi
fi

if wanted sanitizers; then
    part small_step 60 "$PYTHON" scripts/small_step.py --device "$DEVICE"
    if [ "$DEVICE" = cuda ] && command -v compute-sanitizer > /dev/null; then
        export PYTORCH_NO_CUDA_MEMORY_CACHING=1  # so that each tensor is an allocation with bounds of its own
        for tool in memcheck racecheck initcheck synccheck; do
            part "$tool" 60 compute-sanitizer --tool "$tool" --kernel-name kns=splatlearn --error-exitcode 9 \
                "$PYTHON" scripts/small_step.py --device cuda
        done
        unset PYTORCH_NO_CUDA_MEMORY_CACHING
    fi
fi

if wanted train && [ "$DEVICE" = cuda ] && installed pycolmap; then
    for scene in fox fern; do
        variable=${scene^^}
        [ -n "${!variable:-}" ] || continue
        part "train_$scene" 150 "$PYTHON" -m splatlearn train configs/scene.yaml --data.path "${!variable}" --out "$WORK/$scene" --device cuda
        cp "$WORK/$scene/eval/metrics.json" "$OUT/train_$scene.json" 2>/dev/null
    done
fi

if wanted bench; then
    peer=()
    if [ "$DEVICE" = cuda ]; then
        installed gsplat && peer=(--gsplat)
        sizes=("10000 946x530" "100000 1920x1080" "1000000 1920x1080" "1000000 960x540" "1000000 3840x2160" "10000000 1920x1080")
        steps=30
    else
        sizes=("2000 192x108")
        steps=3
    fi
    for size in "${sizes[@]}"; do
        read -r count pixels <<< "$size"
        part "bench_${count}_$pixels" 60 "$PYTHON" -m splatlearn bench --device "$DEVICE" --count "$count" --size "$pixels" --steps "$steps" \
            "${peer[@]}" --json "$OUT/bench_${count}_$pixels.json"
    done
    if [ "$DEVICE" = cuda ] && [ -n "${FOX:-}" ] && installed pycolmap; then
        part bench_fox 60 "$PYTHON" -m splatlearn bench --device cuda --data "$FOX" --steps 60 "${peer[@]}" --json "$OUT/bench_fox.json"
    fi
fi

"$PYTHON" - "$OUT" "$LEDGER" "$DEVICE" <<'PYTHON'
"""Sums up the parts in one JSON file; the exit status is the number of those that failed."""
import json
import sys
from pathlib import Path

out, ledger, device = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
lines = ledger.read_text().split("\n") if ledger.exists() else []
parts = {}
for name, status, seconds in (line.split() for line in lines if line):
    parts[name] = {"status": int(status), "seconds": int(seconds)}
    figures = out / f"{name}.json"
    if figures.exists():
        parts[name]["figures"] = json.loads(figures.read_text())
failed = [name for name, part in parts.items() if part["status"]]
summary = {"device": device, "card": (out / "card.txt").read_text().strip(), "failed": failed, "parts": parts}
(out / "on_gpu.json").write_text(json.dumps(summary, indent=1) + "\n")
print(f"{len(parts) - len(failed)} of {len(parts)} parts went well; see {out / 'on_gpu.json'}")
sys.exit(len(failed))
PYTHON
