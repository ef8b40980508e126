"""Traffic that reacts to the ego, as in NAVSIM v2.2."""
