"""One training on many devices: processes under torchrun, DDP or FSDP2, checkpoints of shards.

Only `training/loop.py` uses this room, so every model that is trained there can be spread.
"""
