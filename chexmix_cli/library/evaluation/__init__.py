"""Evaluations of a manifest put together: rows, a model's states or scores, the protocol of ``core/evals``."""
