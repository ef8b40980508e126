"""Trained beside the line, each in a job of its own: compared, and no part of a release."""
