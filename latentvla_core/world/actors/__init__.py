"""Who moves: the ego, other drivers, people on foot."""
