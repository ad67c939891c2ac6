#!/usr/bin/env bash
# On a machine with a GPU, in one go: the tests that need one, then the bench's parts that need no Ray.
#
#   bash benchmarks/gpu.sh [OUT]      OUT: folder of the results; default benchmarks/results/gpu
#
# Needs torch, triton, numpy, scipy, pydantic, pyarrow, simplejpeg, pillow, rich, matplotlib and pytest; SKINVAE_ISIC_DATA
# names the folder of the real images. On a machine without a GPU the tests skip, and `--small` shows that all runs.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${1:-benchmarks/results/gpu}
shift || true
PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD
"$PYTHON" -m pytest tests/gpu tests/unit/model -q --noconftest -m "not slow"
"$PYTHON" -m benchmarks kernel layers accuracy lhs --out "$OUT" "$@"
