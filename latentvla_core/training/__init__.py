"""What every trained model shares: the one loop, exact checkpoints, metric sinks, model folders,
decoded pictures.
"""

FREE = ("checkpoint_every", "log_every", "quality_every")
"""Settings that change what is kept and told of a training, and nothing of its result: a resumed
run may change them, and no model is trained anew for them.
"""
