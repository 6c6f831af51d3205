"""`allod train` with everything around the pipeline.

run.py      one run                                          site_jobs.py  stages as jobs of a site
release.py  checked once more, signed, stored and logged     lineage.py    back to the sources, forward to models
"""
