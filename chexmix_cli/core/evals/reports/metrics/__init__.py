"""Metrics of generated reports. Each gives sufficient statistics an item, so that one bootstrap serves them all."""
