"""Released models: signed folders, and the statements that lead from them back to their sources.

release.py        a release, read from the artefacts log and held against its folder
lineage.py        the stages that made it, as a chain of digests
answer_lineage.py from a receipt to the lineage of the model that it names
model_signing.py  OpenSSF Model Signing, both ways           model_keys.py    the key that signs models
"""
