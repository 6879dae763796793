"""Images and reports as vectors, an index of them, and exact search."""
