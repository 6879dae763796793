"""Attention of a few new positions to a long cache, its positions shared among programs."""
