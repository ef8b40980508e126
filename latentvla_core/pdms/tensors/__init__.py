"""The score as batched torch operations, on any device."""
