"""Decoding: prompts of token ids in, new token ids out."""
