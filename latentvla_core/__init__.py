"""LatentVLA: latent-action learning for driving, from logs to PDM score. Importing this costs
nothing.
"""

__version__ = "0.1.0"
