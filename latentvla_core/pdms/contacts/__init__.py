"""Whom a plan meets: boxes over time, collisions and the time to them."""
