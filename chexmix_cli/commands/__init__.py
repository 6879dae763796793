"""Thin commands: flags, settings, a call of the library, records written. No tensor code, no torch at module level."""
