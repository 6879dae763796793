"""Logits of some head rows, and what is chosen among them, without the logits in memory."""
