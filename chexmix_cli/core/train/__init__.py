"""Training: objectives, data order, loop, checkpoints. `pretrain.py` puts them together."""
