"""Metrics as plain functions: of scores, of ranks, of pictures, and intervals by patient."""
