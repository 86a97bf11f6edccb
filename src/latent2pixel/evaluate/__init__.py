"""Measurements of finished models and their pictures: cost, patches, spectra, distances to the source, uncertainty."""
