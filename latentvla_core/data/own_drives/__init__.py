"""Drives that are only pictures and poses."""
