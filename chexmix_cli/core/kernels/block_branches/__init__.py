"""What a block computes between its two products, for a few positions behind a cache."""
