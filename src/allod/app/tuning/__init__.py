"""Which settings of `[model]` suit this machine, by measurement. These decide, and measure nothing.

configuration.py what may be set, and which to try           figures.py   what one measurement found, and its score
race.py          who is measured next, and who is best       lines.py     the settings' file with other values in it
"""
