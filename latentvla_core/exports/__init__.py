"""Drives with their labels in formats that others read: LeRobot data sets and WebDataset shards."""
