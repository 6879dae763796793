"""Pictures of any kind as 8-bit arrays, and as the square float image that the tokenizer reads."""
