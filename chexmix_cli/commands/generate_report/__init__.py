"""``chexmix generate-report``: the command, and what decoding cost."""
