"""Keeping what others do apart from what the ego does."""
