"""Doors to other simulators: a `Driver` behind HTTP, behind AlpaSim's gRPC contract, and as an agent
of the NAVSIM devkit. All of them speak of one moment in one form (`moments.py`).
"""
