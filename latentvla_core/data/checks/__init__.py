"""The data doctor."""
