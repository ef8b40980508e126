"""Planners learn from the PDM score after imitation: sampled plans, a reward in memory, detectors
of what goes wrong. A planner trained here has seen the benchmark's scorer: say so beside its
number.
"""
