#!/bin/sh
# From documents to an answer that a stranger can check, in minutes on a laptop without an accelerator. Needs what
# `make setup-train` installs.
#
#     sh examples/laptop.sh                        Jane Austen, Shakespeare, LibreOffice's help and WordNet
#     sh examples/laptop.sh RECIPE.toml [WORDS]    a recipe of your own, and more words for `allod train`
set -eu
[ $# -gt 0 ] || set -- "$(dirname "$0")/../recipes/laptop.toml" --minutes 2
PATH="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH"
place=$(mktemp -d)

# Train. Documents are fetched, cleaned and packed; a network learns from them, is measured, exported for the engine, signed
# and logged. Every stage runs in a process that reaches nothing. Interrupt it and start again: it goes on where it was.
allod train "$@" --name mine

# Say what was made: from what, under which licences, how good it is.
allod model show mine

# Serve. The engine is started under the seal, the gateway before it listens on loopback alone.
allod up --port 0 --model mine > "$place/gateway.out" 2>&1 &
gateway=$!
trap 'kill "$gateway"; wait "$gateway" || true; rm -rf "$place"' EXIT
until grep -qs '^ready' "$place/gateway.out"; do
    kill -0 "$gateway" || { cat "$place/gateway.out"; exit 1; }
    sleep 1
done
cat "$place/gateway.out"

# Ask. The answer is complete once its receipt is in the log. The model knows the style of its documents, and no facts.
allod ask --receipt "$place/answer.receipt.json" --max-tokens 60 "Who is Emma?"

# Verify, as anybody could without us: the answer is the one that was logged, by this model, which came of these documents.
allod verify --lineage "$place/answer.receipt.json"

# Change one word of the answer's evidence, and it verifies no more.
sed 's/mine/yours/' "$place/answer.receipt.json" > "$place/forged.receipt.json"
if allod verify "$place/forged.receipt.json"; then exit 1; fi
