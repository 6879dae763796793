"""Queries and keys rotated, keys and values written behind a cache, out of one fused product."""
