"""``chexmix retrieve``: index and query."""
