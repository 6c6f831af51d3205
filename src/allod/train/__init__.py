"""From a corpus to a signed model: stages that are pure functions of digests, each leaving a manifest.

recipe.py         what is to be made                         recipe_reading.py  a recipe's TOML, read strictly
resolving.py      what of it depends on this machine         pipeline.py        which stages, in which order
runs.py           a run's folder                             outputs.py         what a stage left, taken for hostile
stage_process.py  one stage in its own process               sealed_stage.py    that process on the island
stage_task.py     what a stage is given                      stage_messages.py  what it says meanwhile
stage_log.py      a finished stage as a leaf                 stopping.py        an orderly end
energy.py         joules, metered or said to be unavailable  environment.py     what a stage ran with
stages/           a file for each stage                      sources/           documents from packages and folders
corpus/           cleaning, sharding, canaries               learning/          batches, optimiser, checkpoints
tuning/           dialogues and adapters                     evaluation/        what a model is measured by
exporting/        from a network to the engine's format
"""
