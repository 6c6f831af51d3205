#!/bin/sh
# Install torch: the site's own build if it is there, else the one that pip chooses, if its digest is in the list. A build
# for the CPU alone needs none of the CUDA libraries that are listed with it.
set -eu
cd "$(dirname "$0")/.."
pip="$1 -m pip --disable-pip-version-check"
if "$1" -c 'import torch, sys; sys.exit(not torch.__version__.startswith("2.13.0"))' 2>/dev/null; then exit 0; fi
drafts=$(mktemp -d)
trap 'rm -rf "$drafts"' EXIT
$pip download --quiet --no-deps --dest "$drafts" torch==2.13.0
wheel=$(ls "$drafts"/torch-*.whl)
sum=$(sha256sum "$wheel" | cut -d' ' -f1)
if ! grep -q "sha256:$sum" requirements/torch.txt; then
    echo "error: torch 2.13.0 has SHA-256 $sum here, which requirements/torch.txt does not list"
    exit 1
fi
case "$wheel" in
    *+cpu*) $pip install --quiet --no-deps "$wheel" ;;
    *) $pip install --quiet --require-hashes --requirement requirements/torch.txt ;;
esac
