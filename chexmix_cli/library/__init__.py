"""The library: what the commands do, in Python. ``import chexmix_cli as chexmix`` gives it (docs/python.md)."""
