"""Tokens replaced by the mask id, with the targets that then count."""
