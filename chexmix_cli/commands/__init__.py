"""Thin commands: parse, settings, core, write. No tensor code, no torch at module level."""
