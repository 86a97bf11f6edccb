"""Ablations: ways of making a pixel model against each other, at equal budget, over seeds."""
