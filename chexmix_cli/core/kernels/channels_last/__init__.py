"""The image tokenizer's layers on float32 films whose channels lie side by side, on a CPU: definition, and C."""
