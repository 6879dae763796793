"""Weights on disk: entries of ``weights.toml``, directories, safetensors in and out, conversion, verification.

Importing this package loads no torch; reading a header or listing entries never does.
"""

from chexmix_cli.core.weights.directory import WeightsDir, open_weights
from chexmix_cli.core.weights.saving import save_model

__all__ = ["WeightsDir", "open_weights", "save_model"]
