"""Findings read off reports by rules: patterns, the scope of a denial or doubt, the labeller."""
