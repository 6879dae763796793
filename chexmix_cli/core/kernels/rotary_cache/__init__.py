"""Queries and keys rotated, keys and values appended to a cache, out of one fused product."""
