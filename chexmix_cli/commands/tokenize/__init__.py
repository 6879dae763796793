"""``chexmix tokenize``: the command, its comparison of presets, its token shards."""
