#!/bin/sh
# Pin every dependency with its hashes; no address of a registry is written.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/python -m pip install --quiet uv
compile() { .venv/bin/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 "$@"; }
printf 'setuptools>=77\n' | compile pyproject.toml - --output-file requirements.txt
printf 'psycopg[binary]>=3.3\n' | compile - --output-file requirements-postgres.txt
printf 'setuptools>=77\n' | compile pyproject.toml - --group dev --constraint requirements-postgres.txt --constraint requirements.txt --output-file requirements-dev.txt
