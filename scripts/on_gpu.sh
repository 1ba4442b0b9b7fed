#!/usr/bin/env bash
# Proves and measures splatlearn on a machine with an NVIDIA card: tests, sanitizers, benchmark, training; under nine minutes on an H200 with 16 cores.
#
#   OUT=results FOX=../shared/scenes/fox FERN=../shared/scenes/fern bash scripts/on_gpu.sh
#
#   OUT      folder for the results: goals.md is the README's table, log.md a section for docs/LOG.md, on_gpu.json sums
#            up; each part has its log or JSON beside them. Again, later: splatlearn bench --collect OUT
#   WHEEL    a wheel of splatlearn to install; without it one is built here, with nvcc for the card that is here
#   WHEELS   a folder of further wheels to install offline (pycolmap, tqdm, ... for training, gsplat for the comparison)
#   FOX, FERN   COLMAP folders to train on; left out, that part is skipped
#   TEXT     a text file to train on, tinyshakespeare for one; left out, that part is skipped
#   PYTHON   the Python that has PyTorch (default: python3)
#   PARTS    which parts to do (default: install tests sanitizers bench scaling replay train)
#   RECIPE   what fox and fern are learned by within ten seconds: a config and keys (default: see below)
#   SECONDS_IN_ALL   what all parts may take together (default: 530 with a card, 1500 without); those for which nothing is left count as failed
#   PACK     1: all files but the few to read go into results.tar.gz
#   JOBS     test files run at a time (default: three quarters of the cores)
#
# With a card, in seconds at most (and what is likely): gsplat's kernels compile in the background from the start; the wheel
# 200 (60); install, doctor 40 (20); kernels' tests 110 (60); then side by side, 100 (60): sanitizers, the other tests, and the
# 30,000-step recipe on both scenes, whose quality counts and not their time; then alone on the card, for 190 are kept: gsplat's
# end 60 (0), benchmarks 30 + 30 + 30 (60), scaling 40 (40), replays 40 (25), both scenes by the quick recipe 2 x 20 (25).
# A part that fails or outlives its time is told and stops no other. What is measured runs alone.
#
# Without a card the same parts run on the CPU, with the CUDA kernels emulated, and on_gpu.json says so. The exit status is the number of failed parts.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=$(mkdir -p "${OUT:-on_gpu}" && cd "${OUT:-on_gpu}" && pwd)
PYTHON=${PYTHON:-python3}
PARTS=${PARTS:-install tests sanitizers bench scaling replay train}
# Pictures are not made coarse at first: on a card a small one saves little. Try first: steps, sh_every, densify.cap.
read -r -a QUICK <<< "${RECIPE:-configs/scene.yaml --steps 5000 --sh_every 500 --densify.start 300}"
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
KEPT=$([ "$DEVICE" = cuda ] && echo 190 || echo 0)  # seconds that parts before the measurements leave to these

# part NAME SECONDS COMMAND...: runs it within its time and what is left of all, its output in NAME.log, its outcome in the ledger.
part() {
    local name=$1 seconds=$2 begin=$SECONDS status
    shift 2
    local left=$((DEADLINE - KEPT - SECONDS))
    [ "$left" -gt 3 ] || { echo "$name 125 0" | tee -a "$LEDGER"; echo "no time was left for $name" > "$OUT/$name.log"; return 125; }
    timeout "$((seconds < left ? seconds : left))" "$@" > "$OUT/$name.log" 2>&1
    status=$?
    echo "$name $status $((SECONDS - begin))" | tee -a "$LEDGER"
    [ $status -eq 0 ] || tail -n 15 "$OUT/$name.log"
    return $status
}
wanted() { [[ " $PARTS " == *" $1 "* ]]; }
installed() { "$PYTHON" -c "import $1" 2>/dev/null; }

# train NAME SECONDS CONFIG [KEYS...]: a training with its evaluation in NAME.json, the wall time of the command in it.
train() {
    local name=$1 seconds=$2 begin
    shift 2
    begin=$(date +%s.%N)
    part "$name" "$seconds" "$PYTHON" -m splatlearn train "$@" --out "$WORK/$name" --device "$DEVICE" || return
    "$PYTHON" - "$WORK/$name/eval/metrics.json" "$OUT/$name.json" "$begin" "$(date +%s.%N)" "$DEVICE" <<'PYTHON'
import json
import sys
from pathlib import Path

source, target, begin, end, device = sys.argv[1:]
figures = json.loads(Path(source).read_text())
figures.pop("views", None)
Path(target).write_text(json.dumps(figures | {"wall_seconds": float(end) - float(begin), "device": device}) + "\n")
PYTHON
}
# scenes: the names of the COLMAP folders that were given, and `folder_of NAME`.
scenes() { for name in fox fern; do [ -z "$(folder_of $name)" ] || echo $name; done; }
folder_of() { local variable=${1^^}; echo "${!variable:-}"; }
few=() REFERENCES=() SANITIZERS=()
[ "$DEVICE" = cuda ] || few=(--steps 20)  # that it runs; what it learns is for an idle machine and a quarter of an hour

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
    if [ "$DEVICE" = cuda ] && installed gsplat; then  # its kernels compile at their first use: now, beside the tests
        export TORCH_EXTENSIONS_DIR="$WORK/extensions" TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0}
        MAX_JOBS=$((CORES / 2)) nice -n 10 "$PYTHON" -c "import gsplat.cuda._backend as b; assert b._C is not None" > "$OUT/gsplat.log" 2>&1 &
        GSPLAT=$!
    fi
else
    export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"  # the checkout, with what was built in place
fi

# Test files side by side, the longest first; with a card the ops' tests, which have CUDA as one of their devices, come before all others.
KERNEL_TESTS="cuda_kernels replay gradcheck ops_forward ops_backward cuda_atomic cuda_bin ops_room ops_raw photometric adam project_update rasterization_api staging bench emulator"
run_tests() {
    local log="$OUT/tests"
    printf '%s\n' "$@" | OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE xargs -P "$JOBS" -I{} sh -c '
        "$1" -m pytest -q -p no:cacheprovider -k "$4" "$2" > "$3/$(basename "$2" .py).log" 2>&1
        status=$?; [ $status -eq 5 ] && status=0  # nothing of the file was asked for
        [ $status -eq 0 ] || { echo "failed: $2"; tail -n 5 "$3/$(basename "$2" .py).log"; exit 1; }' sh "$PYTHON" {} "$log" "$CHOSEN"
}
if wanted tests; then
    kernels=(); others=()
    rm -rf "$OUT/tests" && mkdir -p "$OUT/tests"
    for name in $KERNEL_TESTS; do [ -f "tests/test_$name.py" ] && kernels+=("tests/test_$name.py"); done
    # What is no business of a card: the house's tools, browsers, documents and the long structure from motion.
    for file in tests/test_*.py; do
        [[ " ${kernels[*]} " == *" $file "* || "$file" =~ (quality|cuda_build|viewer|docs|story|show|figures|reconstruct|sfm|still_life) ]] || others+=("$file")
    done
    export -f run_tests
    export OUT PYTHON JOBS CHOSEN
    CHOSEN=""
    [ "$DEVICE" = cuda ] || CHOSEN="emulated or cuda or room or staging or replay"
    part tests_kernels "$([ "$DEVICE" = cuda ] && echo 110 || echo 700)" bash -c 'run_tests "$@"' bash "${kernels[@]}"
    [ "$DEVICE" != cuda ] || JOBS=$((JOBS / 2)) part tests_rest 100 bash -c 'run_tests "$@"' bash "${others[@]}" &
    TESTS=$!
fi

# The quality that the quick recipe is held against; what else runs meanwhile takes time from it, and changes no bit.
if wanted train && [ "$DEVICE" = cuda ] && installed pycolmap; then
    for scene in $(scenes); do
        train "reference_$scene" 100 configs/scene_original.yaml --densify.prune_scale 1000 --data.path "$(folder_of "$scene")" &
        REFERENCES+=($!)
    done
fi

if wanted sanitizers; then
    if [ "$DEVICE" = cuda ]; then
        part small_step 60 "$PYTHON" scripts/small_step.py --device cuda
        if command -v compute-sanitizer > /dev/null; then
            export PYTORCH_NO_CUDA_MEMORY_CACHING=1  # so that each tensor is an allocation with bounds of its own
            for tool in memcheck racecheck initcheck synccheck; do  # side by side: each is one process on one core
                part "$tool" 100 compute-sanitizer --tool "$tool" --kernel-name kns=splatlearn --error-exitcode 9 \
                    "$PYTHON" scripts/small_step.py --device cuda &
                SANITIZERS+=($!)
            done
            wait "${SANITIZERS[@]}"
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

# From here on what is measured is alone on the card.
for job in ${TESTS:-} ${REFERENCES[@]:-}; do wait "$job"; done
KEPT=0
peer=()
if [ -n "${GSPLAT:-}" ]; then
    timeout $((DEADLINE - SECONDS > 190 ? 60 : 1)) tail --pid="$GSPLAT" -f /dev/null
    if kill -0 "$GSPLAT" 2> /dev/null; then
        echo "gsplat did not compile in time: it is not compared"
        kill "$GSPLAT"
    elif wait "$GSPLAT"; then
        peer=(--gsplat)
    else
        echo "gsplat does not compile: it is not compared; see $OUT/gsplat.log"
    fi
fi

if wanted bench; then
    if [ "$DEVICE" = cuda ]; then
        sizes=("10000 946x530" "1000000 1920x1080") steps=60 each=40
    else
        sizes=("2000 192x108") steps=3 each=150
    fi
    for size in "${sizes[@]}"; do
        read -r count pixels <<< "$size"
        part "bench_${count}_$pixels" "$each" "$PYTHON" -m splatlearn bench --device "$DEVICE" --count "$count" --size "$pixels" --steps "$steps" \
            "${peer[@]}" --json "$OUT/bench_${count}_$pixels.json"
    done
    if [ -n "${FOX:-}" ] && installed pycolmap; then
        part bench_fox "$each" "$PYTHON" -m splatlearn bench --device "$DEVICE" --data "$FOX" --steps "$steps" "${peer[@]}" --json "$OUT/bench_fox.json"
    fi
fi

if wanted scaling; then
    part scaling 60 "$PYTHON" -m splatlearn bench --scaling --device "$DEVICE" --budget "$([ "$DEVICE" = cuda ] && echo 35 || echo 8)" \
        --plot "$OUT/scaling.png" --json "$OUT/scaling.json"
fi

# Whole steps as CUDA graphs: the times of a step, and a training with and without, which must have the same bits.
graph=()
if wanted replay && [ "$DEVICE" = cuda ]; then
    part bench_replay_1000000 40 "$PYTHON" -m splatlearn bench --device cuda --count 1000000 --size 1920x1080 --steps 60 --replay "${peer[@]}" \
        --json "$OUT/bench_replay_1000000.json"
    if [ -n "${FOX:-}" ] && installed pycolmap; then
        part bench_replay_fox 40 "$PYTHON" -m splatlearn bench --device cuda --data "$FOX" --steps 60 --replay "${peer[@]}" --json "$OUT/bench_replay_fox.json"
        train plain_fox 30 configs/scene.yaml --steps 2000 --data.path "$FOX"
        train replayed_fox 30 configs/scene.yaml --steps 2000 --data.path "$FOX" --cuda_graph
        part same_bits 5 cmp "$WORK/plain_fox/point_cloud.ply" "$WORK/replayed_fox/point_cloud.ply" && graph=(--cuda_graph)
        "$PYTHON" - "$OUT" "${#graph[@]}" <<'PYTHON'
"""What replays change of a training: its time, and no bit."""
import json
import sys
from pathlib import Path

out = Path(sys.argv[1])
runs = [out / f"{name}_fox.json" for name in ("plain", "replayed")]
if all(run.is_file() for run in runs):
    plain, replayed = (json.loads(run.read_text())["train_seconds"] for run in runs)
    told = {"same_bits": sys.argv[2] != "0", "plain_seconds": plain, "replayed_seconds": replayed}
    (out / "same_bits.json").write_text(json.dumps(told) + "\n")
PYTHON
    fi
fi

if wanted train && installed pycolmap; then
    for scene in $(scenes); do
        train "train_$scene" "$([ "$DEVICE" = cuda ] && echo 40 || echo 120)" "${QUICK[@]}" "${few[@]}" "${graph[@]}" --data.path "$(folder_of "$scene")"
    done
fi

if wanted train && [ -n "${TEXT:-}" ]; then
    recipe=(configs/text_small.yaml)
    [ "$DEVICE" = cuda ] || recipe=(configs/text_cpu.yaml --steps 20)
    part train_text "$([ "$DEVICE" = cuda ] && echo 120 || echo 240)" "$PYTHON" -m splatlearn train "${recipe[@]}" --data.path "$TEXT" --out "$WORK/text" --device "$DEVICE"
    cp "$WORK/text/eval/metrics.json" "$OUT/train_text.json" 2>/dev/null
fi

"$PYTHON" - "$OUT" "$LEDGER" "$DEVICE" "$SECONDS" <<'PYTHON'
"""Sums up the parts in one JSON file; the exit status is the number of those that failed."""
import json
import sys
import time
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
    "date": time.strftime("%Y-%m-%d"), "device": device, "card": (out / "card.txt").read_text().strip(), "seconds": seconds, "failed": failed, "parts": parts,
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
status=$?
"$PYTHON" -m splatlearn bench --collect "$OUT"  # the table of goals, goals.md, and log.md
if [ -n "${PACK:-}" ]; then
    tar -C "$OUT" -czf "$WORK/results.tar.gz" .
    find "$OUT" -mindepth 1 -maxdepth 1 ! -name goals.* ! -name log.md ! -name on_gpu.json ! -name scaling.png ! -name card.txt -exec rm -rf {} +
    mv "$WORK/results.tar.gz" "$OUT/"
fi
exit $status
