"""Pretraining: a stage put together, and the decoder stages."""
