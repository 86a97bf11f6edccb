"""Whole jobs made of features: they open folders, hand one feature's result to the next, and own nothing else."""
