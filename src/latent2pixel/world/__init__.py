"""The miniature world: captioned vector scenes, an exact verifier, and a tiny real source model trained on them."""
