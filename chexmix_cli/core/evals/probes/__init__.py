"""Linear probes: fitted on states or pixels, and validated."""
