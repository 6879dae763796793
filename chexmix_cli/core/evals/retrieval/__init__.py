"""``evaluate retrieval``: recalls and ranks in both directions."""
