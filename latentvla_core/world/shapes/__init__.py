"""What things look like: bodies, buildings, trees, signs and paint as faces."""
