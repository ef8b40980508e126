"""Planners learn from drives that they make themselves, in the closed loop."""
