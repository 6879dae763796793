"""Nearest codebook row of each latent."""
