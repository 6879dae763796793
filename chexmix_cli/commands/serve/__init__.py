"""``chexmix serve``: programs that stay and work for others, a file for each protocol."""
