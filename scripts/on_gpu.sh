#!/usr/bin/env bash
# Proves and measures splatlearn on a machine with an NVIDIA card: tests, sanitizers, benchmark, training; under nine minutes on an H200 with 16 cores.
#
#   OUT=results FOX=../shared/scenes/fox FERN=../shared/scenes/fern bash scripts/on_gpu.sh
#
#   OUT      folder for the results: on_gpu.json sums them up, and each part has its log or JSON beside it
#   WHEEL    a wheel of splatlearn to install; without it one is built here, with nvcc for the card that is here
#   WHEELS   a folder of further wheels to install offline (pycolmap for training, gsplat for the comparison)
#   FOX, FERN   COLMAP folders to train on; left out, that part is skipped
#   TEXT     a text file to train on, tinyshakespeare for one; left out, that part is skipped
#   PYTHON   the Python that has PyTorch (default: python3)
#   PARTS    which parts to do (default: install tests sanitizers bench scaling train)
#   SECONDS_IN_ALL   what all parts may take together (default: 530 with a card, 1500 without); those for which nothing is left count as failed
#   JOBS     test files run at a time (default: three quarters of the cores)
#
# Without a card the same parts run on the CPU, with the CUDA kernels emulated, and on_gpu.json says so. The exit status is the number of failed parts.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=$(mkdir -p "${OUT:-on_gpu}" && cd "${OUT:-on_gpu}" && pwd)
PYTHON=${PYTHON:-python3}
PARTS=${PARTS:-install tests sanitizers bench scaling train}
CORES=$(nproc)
JOBS=${JOBS:-$(((CORES * 3 + 3) / 4))}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
SITE="$WORK/site"
LEDGER="$WORK/ledger"
DEVICE=cpu
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv,noheader > "$OUT/card.txt" 2>/dev/null && DEVICE=cuda
[ "$DEVICE" = cuda ] || echo "no card: the CPU and the emulated half" > "$OUT/card.txt"
cat "$OUT/card.txt"
[ "$DEVICE" = cuda ] || export SPLATLEARN_CUDA_ARCHS=${SPLATLEARN_CUDA_ARCHS:-90}  # one is proof enough that it compiles
DEADLINE=${SECONDS_IN_ALL:-$([ "$DEVICE" = cuda ] && echo 530 || echo 1500)}

# part NAME SECONDS COMMAND...: runs it within its time and what is left of all, its output in NAME.log, its outcome in the ledger.
part() {
    local name=$1 seconds=$2 begin=$SECONDS status
    shift 2
    local left=$((DEADLINE - SECONDS))
    [ "$left" -gt 3 ] || { echo "$name 125 0" | tee -a "$LEDGER"; echo "no time was left for $name" > "$OUT/$name.log"; return 125; }
    timeout "$((seconds < left ? seconds : left))" "$@" > "$OUT/$name.log" 2>&1
    status=$?
    echo "$name $status $((SECONDS - begin))" | tee -a "$LEDGER"
    [ $status -eq 0 ] || tail -n 15 "$OUT/$name.log"
    return $status
}
wanted() { [[ " $PARTS " == *" $1 "* ]]; }
installed() { "$PYTHON" -c "import $1" 2>/dev/null; }

if wanted install; then
    if [ -z "${WHEEL:-}" ]; then
        part build "$([ "$DEVICE" = cuda ] && echo 240 || echo 900)" "$PYTHON" -m pip wheel -q --no-deps --no-index --no-build-isolation -w "$WORK/wheel" . && WHEEL=$(echo "$WORK"/wheel/*.whl)
    fi
    [ -f "${WHEEL:-}" ] || { echo "there is no wheel of splatlearn to install: see $OUT/build.log"; exit 1; }
    wheels=("$WHEEL")
    [ -z "${WHEELS:-}" ] || wheels+=("$WHEELS"/*.whl)
    part install 120 "$PYTHON" -m pip install -q --no-deps --no-index --no-compile --target "$SITE" "${wheels[@]}"
    # The commands and tests below use what was installed, not the checkout beside it.
    export PYTHONPATH="$SITE${PYTHONPATH:+:$PYTHONPATH}"
    mkdir -p "$WORK/tree" && cp -r tests scripts configs csrc docs setup.py pyproject.toml README.md "$WORK/tree/"
    [ ! -d ../shared ] || ln -s "$(cd ../shared && pwd)" "$WORK/shared"
    cd "$WORK/tree" || exit 1
    part doctor 60 "$PYTHON" -m splatlearn doctor
else
    export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"  # the checkout, with what was built in place
fi

# Test files side by side, the longest first; with a card the ops' tests, which have CUDA as one of their devices, come before all others.
KERNEL_TESTS="cuda_kernels gradcheck ops_forward ops_backward cuda_atomic cuda_bin ops_room ops_raw photometric adam project_update rasterization_api staging bench emulator"
run_tests() {
    local log="$OUT/tests"
    rm -rf "$log" && mkdir -p "$log"
    printf '%s\n' "$@" | OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE xargs -P "$JOBS" -I{} sh -c '
        "$1" -m pytest -q -p no:cacheprovider -k "$4" "$2" > "$3/$(basename "$2" .py).log" 2>&1
        status=$?; [ $status -eq 5 ] && status=0  # nothing of the file was asked for
        [ $status -eq 0 ] || { echo "failed: $2"; tail -n 5 "$3/$(basename "$2" .py).log"; exit 1; }' sh "$PYTHON" {} "$log" "$CHOSEN"
}
if wanted tests; then
    kernels=(); others=()
    for name in $KERNEL_TESTS; do [ -f "tests/test_$name.py" ] && kernels+=("tests/test_$name.py"); done
    # What is no business of a card: the house's tools, browsers, documents and the long structure from motion.
    for file in tests/test_*.py; do
        [[ " ${kernels[*]} " == *" $file "* || "$file" =~ (quality|cuda_build|viewer|docs|story|show|figures|reconstruct|sfm|still_life) ]] || others+=("$file")
    done
    export -f run_tests
    export OUT PYTHON JOBS CHOSEN
    CHOSEN=""
    [ "$DEVICE" = cuda ] || CHOSEN="emulated or cuda or room or staging"
    part tests_kernels "$([ "$DEVICE" = cuda ] && echo 150 || echo 700)" bash -c 'run_tests "$@"' bash "${kernels[@]}"
    [ "$DEVICE" != cuda ] || part tests_rest 120 bash -c 'run_tests "$@"' bash "${others[@]}"
fi

if wanted sanitizers; then
    if [ "$DEVICE" = cuda ]; then
        part small_step 60 "$PYTHON" scripts/small_step.py --device cuda
        if command -v compute-sanitizer > /dev/null; then
            export PYTORCH_NO_CUDA_MEMORY_CACHING=1  # so that each tensor is an allocation with bounds of its own
            for tool in memcheck racecheck initcheck synccheck; do  # side by side: each is one process on one core
                part "$tool" 90 compute-sanitizer --tool "$tool" --kernel-name kns=splatlearn --error-exitcode 9 \
                    "$PYTHON" scripts/small_step.py --device cuda &
            done
            wait
            unset PYTORCH_NO_CUDA_MEMORY_CACHING
        else
            part sanitizers 5 sh -c 'echo "compute-sanitizer is not installed"; exit 1'
        fi
    else
        part small_step 60 "$PYTHON" scripts/small_step.py
        part emulator 200 "$PYTHON" setup.py -q build_emulator --out "$WORK/emulated.so"
        part small_step_emulated 60 "$PYTHON" scripts/small_step.py --emulated "$WORK/emulated.so"
    fi
fi

if wanted bench; then
    if [ "$DEVICE" = cuda ]; then
        sizes=("10000 946x530" "1000000 1920x1080") steps=60
        installed gsplat && peer=(--gsplat) || { peer=(); echo "gsplat is not installed: it is not compared"; }
    else
        sizes=("2000 192x108") steps=3 peer=()
    fi
    for size in "${sizes[@]}"; do
        read -r count pixels <<< "$size"
        part "bench_${count}_$pixels" 60 "$PYTHON" -m splatlearn bench --device "$DEVICE" --count "$count" --size "$pixels" --steps "$steps" \
            "${peer[@]}" --json "$OUT/bench_${count}_$pixels.json"
    done
    if [ -n "${FOX:-}" ] && installed pycolmap; then
        part bench_fox 60 "$PYTHON" -m splatlearn bench --device "$DEVICE" --data "$FOX" --steps "$steps" "${peer[@]}" --json "$OUT/bench_fox.json"
    fi
fi

if wanted scaling; then
    part scaling 90 "$PYTHON" -m splatlearn bench --scaling --device "$DEVICE" --budget "$([ "$DEVICE" = cuda ] && echo 50 || echo 8)" \
        --plot "$OUT/scaling.png" --json "$OUT/scaling.json"
fi

if wanted train && installed pycolmap; then
    for scene in fox fern; do
        variable=${scene^^}
        [ -n "${!variable:-}" ] || continue
        few=()
        [ "$DEVICE" = cuda ] || few=(--steps 20)  # that it runs; what it learns is for an idle machine and a quarter of an hour
        part "train_$scene" 120 "$PYTHON" -m splatlearn train configs/scene.yaml --data.path "${!variable}" --out "$WORK/$scene" --device "$DEVICE" "${few[@]}"
        cp "$WORK/$scene/eval/metrics.json" "$OUT/train_$scene.json" 2>/dev/null
    done
fi

if wanted train && [ -n "${TEXT:-}" ]; then
    recipe=(configs/text_small.yaml)
    [ "$DEVICE" = cuda ] || recipe=(configs/text_cpu.yaml --steps 20)
    part train_text 240 "$PYTHON" -m splatlearn train "${recipe[@]}" --data.path "$TEXT" --out "$WORK/text" --device "$DEVICE"
    cp "$WORK/text/eval/metrics.json" "$OUT/train_text.json" 2>/dev/null
fi

"$PYTHON" - "$OUT" "$LEDGER" "$DEVICE" "$SECONDS" <<'PYTHON'
"""Sums up the parts in one JSON file; the exit status is the number of those that failed."""
import json
import sys
from pathlib import Path

out, ledger, device, seconds = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
lines = ledger.read_text().split("\n") if ledger.exists() else []
parts = {}
for name, status, spent in (line.split() for line in lines if line):
    parts[name] = {"status": int(status), "seconds": int(spent)}
    figures = out / f"{name}.json"
    if figures.exists() and not int(status):
        parts[name]["figures"] = json.loads(figures.read_text())
failed = [name for name, part in parts.items() if part["status"]]
summary = {
    "device": device, "card": (out / "card.txt").read_text().strip(), "seconds": seconds, "failed": failed, "parts": parts,
}
for name, part in parts.items():
    figures = part.get("figures", {})
    ours, peers = figures.get("alternation", {}).get("splatlearn"), figures.get("alternation", {})
    for peer, times in peers.items():
        if peer != "splatlearn":
            ratio, queued = (times[key] / ours[key] for key in ("step_ms", "queued_step_ms"))
            print(f"{name}: {peer} takes {ratio:.2f} times our {ours['step_ms']:.2f} ms a step, queued {queued:.2f} times")
    if "bits_per_byte" in figures:
        print(f"{name}: held-out loss {figures['loss']:.4f} after {figures['steps']:,} steps in {figures['train_seconds']:.0f} s")
    if "psnr" in figures:
        print(f"{name}: {figures['psnr']:.2f} dB after {figures['steps']:,} steps in {figures['train_seconds']:.0f} s")
(out / "on_gpu.json").write_text(json.dumps(summary, indent=1) + "\n")
print(f"{len(parts) - len(failed)} of {len(parts)} parts went well in {seconds} s; see {out / 'on_gpu.json'}")
sys.exit(min(len(failed), 100))
PYTHON
