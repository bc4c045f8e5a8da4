"""Measure the speed and cost of a training, alone and against a plain loop, for `lgkd bench`."""
