"""``chexmix evaluate``: a file a task."""
