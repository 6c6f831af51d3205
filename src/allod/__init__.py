"""Allod: train, serve, govern and prove language models wholly inside one's own perimeter.

cli/     the command line                                    web/    HTTP
app/     where real things are built                         settings/    the one reader of the environment
serve/   the way of a request                                train/  from a corpus to a signed model
engine/  whatever runs a model                               fleet/  machines and jobs
model/   a model on a disk                                   seal/   the perimeter
govern/  who may ask what, where                             prove/  evidence that a stranger can check
core/    what our words mean
"""

__version__ = "0.1.0"
