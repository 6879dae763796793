"""``chexmix serve``: programs that stay and work for others, one file a protocol."""
