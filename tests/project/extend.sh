#!/usr/bin/env bash
# In a scratch copy of the project: an op (one file and its test), a kernel, a model, a driver, a verb and an experiment
# (one file each) are added with no other edit, built, used and plotted.
set -euo pipefail
source=$(cd "$(dirname "$0")/../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
for part in CMakeLists.txt CMakePresets.json engine kernels harness experiments results/SCHEMA.md scripts tests README.md; do
    mkdir -p "$copy/$(dirname "$part")"
    cp -r "$source/$part" "$copy/$part"
done
toy=$copy/tests/project/toy
cp "$toy/toy_cube.c" "$copy/engine/ops/"
cp "$toy/toy_cube_f32_avx2.c" "$copy/kernels/cpu/"
cp "$toy/test_toy_cube.c" "$copy/tests/ops/"
cp "$toy/toy_net.c" "$copy/engine/nn/models/"
cp "$toy/toy_driver.c" "$copy/harness/drivers/"
cp "$toy/toy_verb.c" "$copy/harness/verbs/"
cp "$toy/toy_experiment.yaml" "$toy/toy_training.yaml" "$copy/experiments/"
cd "$copy"
export CCACHE_BASEDIR=$copy CCACHE_NOHASHDIR=1
cmake --preset dev >log 2>&1 || { tail log; exit 1; }
cmake --build build-dev --target tb test_toy_cube test_conformance >log 2>&1 || {
    grep -E 'error|FAILED' -A3 log | head -20
    exit 1
}
build-dev/tests/test_toy_cube
build-dev/tests/test_conformance | tail -3
build-dev/tb ops | grep toy_cube
eval "$(scripts/dev env)"
build-dev/tb run toy_experiment
build-dev/tb run toy_training
build-dev/tb toy_verb hello | grep "told 'hello'"
if /usr/bin/python3 -c 'import h5py, matplotlib' 2>/dev/null; then
    scripts/plot results/runs/toy_experiment/*
    scripts/report results/runs/toy_experiment/*
    TB_BUILD_DIR=build-dev scripts/plot --check
fi
echo "extended without another edit"
