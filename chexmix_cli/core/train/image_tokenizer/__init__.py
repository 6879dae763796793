"""Pretraining of the image tokenizer: its task, its losses, and what its codes keep."""
