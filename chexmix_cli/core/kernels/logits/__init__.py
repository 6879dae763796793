"""Logits of a tile of states and rows, inside the kernels that read them; the plain form is ``x @ weight.T + bias``."""
