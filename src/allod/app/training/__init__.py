"""`allod train` with everything around the pipeline.

run.py         one run, from the recipe to the release       surroundings.py     what a run has around it
prepared.py    a recipe with all that comes from outside     performing.py       one stage, sealed here or as a job
site_jobs.py   stages as jobs of a site                      stage_predicate.py  what a stage's statement says
release.py     checked once more, signed, stored, logged     lineage.py          back to sources, forward to models
"""
