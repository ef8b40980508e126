"""Latent actions as rows of tables, and back: labels, and the contexts of the atlas."""
