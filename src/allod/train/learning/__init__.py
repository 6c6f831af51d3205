"""How a network learns: each part a function of seed and step.

learner.py   a network that learns, on one rank or many      ranks.py        its processes
batches.py   what a step learns from                         losses.py       what is minimised
muon.py      how weights are changed                         schedule.py     the learning rate over time
sizes.py     a size in parameters becomes a shape            probe.py        minutes become a size and steps
peaks.py     what this machine can do at most                checkpoints.py  saved, so that a kill loses little
curve.py     the loss, as lines and as a picture
"""
