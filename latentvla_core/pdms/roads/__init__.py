"""Where a plan drives: the road map, the route through it, areas, lanes and progress."""
