"""Measurements of finished models: what a picture costs."""
