"""Cross-entropy of a linear head without the matrix of all logits."""
