"""Command-line toolkit for CheXmix, the early-fusion generative model of chest X-rays and reports."""

__version__ = "0.1.0"
