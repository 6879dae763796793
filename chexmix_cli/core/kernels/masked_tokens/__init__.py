"""Tokens hidden behind the mask id, with the targets that then count."""
