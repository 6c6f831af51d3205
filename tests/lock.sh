#!/bin/sh
# Pin every dependency with its hashes; no address of a registry is written.
#
# torch is a file of its own and is installed first, without what it depends on: a site's own build of it (CUDA, ROCm,
# CPU) is kept if it is there already. In the other files an override that no machine meets keeps it out.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/python -m pip install --quiet uv
compile() { .venv/bin/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 "$@"; }
drafts=$(mktemp -d)
trap 'rm -rf "$drafts"' EXIT

printf 'setuptools>=77\n' | compile pyproject.toml - --output-file requirements/main.txt
printf 'psycopg[binary]>=3.3\n' | compile - --output-file requirements/postgres.txt

printf 'torch ; python_version < "3"\n' > "$drafts/no-torch"
printf 'filelock\nfsspec>=0.8.5\njinja2\nnetworkx>=2.5.1\nsympy>=1.13.3\ntyping-extensions>=4.10\n' |
    compile pyproject.toml - --extra train --override "$drafts/no-torch" --constraint requirements/main.txt --output-file requirements/train.txt
printf 'setuptools>=77\n' |
    compile pyproject.toml - --extra train --group dev --override "$drafts/no-torch" --constraint requirements/postgres.txt --constraint requirements/main.txt --constraint requirements/train.txt --output-file requirements/dev.txt

# Every published build of torch with the CUDA libraries that those for Linux need, and the build that pip chooses here
# where it comes from elsewhere (for the CPU alone, which needs none of them).
printf 'torch==2.13.0\n' | compile - --output-file "$drafts/torch"
.venv/bin/python -m pip download --quiet --no-deps --dest "$drafts" torch==2.13.0
sum=$(sha256sum "$drafts"/torch-*.whl | cut -d' ' -f1)
sed "s/^torch==2.13.0 .*/&\n    --hash=sha256:$sum \\\\/" "$drafts/torch" > requirements/torch.txt
