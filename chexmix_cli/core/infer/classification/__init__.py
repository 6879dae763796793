"""Findings: by a linear head, or without one by likelihood."""
