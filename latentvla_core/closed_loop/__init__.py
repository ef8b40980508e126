"""Closed loop: planners drive in the world with what they see, and are scored for how they drove."""
