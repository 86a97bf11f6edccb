"""Training data: prompts, their filter, images made by the source, and what training reads of them."""
