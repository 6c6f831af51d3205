#!/bin/sh
# All benchmarks, briefly: `sh benchmarks/run.sh`, or `sh benchmarks/run.sh --full` for figures to publish.
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
if [ "${1:-}" = --full ]; then
    rounds=9 seconds=5 tokens=128
else
    rounds=3 seconds=2 tokens=48
fi
$python benchmarks/controls.py
$python benchmarks/routing.py --quick
$python benchmarks/log_writer.py --rounds "$rounds" --seconds "$seconds"
$python benchmarks/gateway.py --rounds "$rounds" --seconds "$seconds"
$python benchmarks/training.py
$python benchmarks/http_libraries.py --rounds "$rounds" --seconds "$seconds"
.venv/bin/allod model get smollm2-135m >/dev/null 2>&1 || { echo "the platform's tax was not measured: no weights, and none could be fetched"; exit 3; }
$python benchmarks/cold_start.py --rounds "$rounds"
$python benchmarks/platform_tax.py --rounds "$rounds" --tokens "$tokens"
