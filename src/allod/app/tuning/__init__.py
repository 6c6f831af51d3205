"""Which settings of `[model]` suit this machine, by measurement. The first four decide, and touch nothing.

configuration.py what may be set, and which to try           figures.py   what one measurement found, and its score
race.py          who is measured next, and who is best       lines.py     the settings' file with other values in it
workload.py      one engine started, sealed, and measured    kept.py      what was measured, kept and found again
tune.py          the race, run within its time               at_hand.py   other files of the same model
"""
