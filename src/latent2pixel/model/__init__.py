"""Parts of every pixel model: codec, detailer head, the pixel transformer around a source's trunk, freezing."""
