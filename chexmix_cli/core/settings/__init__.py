"""Frozen settings dataclasses and their layered TOML resolution. Imports no torch."""
