"""Kills and faults at random moments against a little line: right tables or one clear error."""
