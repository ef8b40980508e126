"""Latent actions: codes of what happened between two frames, learned in two stages
(docs/latent-actions.md).

Legend of all files here: B batch, T frames (2: now and one gap later), P patches of a frame, D
feature width, W model width, Q queries, N codes per transition, K codebook size, d code width, C
condition tokens.
"""
