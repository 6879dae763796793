"""``chexmix serve http``: requests over HTTP, batched for one model."""
