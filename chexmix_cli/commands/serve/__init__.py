"""``chexmix serve``: a model behind a port."""
