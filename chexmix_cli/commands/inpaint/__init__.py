"""``chexmix inpaint``: the command, and its records and pictures."""
