"""Measurements of finished models and their pictures: what a picture costs, how visible the patches are."""
