"""The stages that run inside the seal, one module each: `run(task) -> StageFacts`. Their order: `core/stages.py`.

source.py     documents of the recipe's sources              clean.py      normalised, dropped, redacted
dedupe.py     of those that say the same, the first          tokenizer.py  byte-level BPE
pack.py       documents as tokens                            pretrain.py   a fresh network learns
tune.py       it learns to answer                            evaluate.py   what it can do
export.py     files for the engine                           adapt.py      a LoRA adapter
export_adapter.py  it, as the engine loads it
filter.py     of clean documents, those that are wanted
unpack.py, probe.py  run like stages, and are none: a package's members; minutes as a size
"""
