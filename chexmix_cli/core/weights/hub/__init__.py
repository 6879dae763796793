"""Models by name: ``weights.toml``, fetching, and the lock of what was fetched."""
