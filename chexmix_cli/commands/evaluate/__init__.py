"""``chexmix evaluate``: a file for each task."""
