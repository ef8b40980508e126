"""What strangers' files may do: how far they unfold, and where they may point."""
