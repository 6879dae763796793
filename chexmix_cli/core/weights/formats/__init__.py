"""File formats of weights: safetensors headers and tensors, checkpoint keys, the released layout."""
