"""The published planners, and what their losses need."""
