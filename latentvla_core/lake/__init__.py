"""The lake: Delta tables below one root, how they are asked for, sorted and kept small."""
