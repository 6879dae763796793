"""The best code of each state and the probability-weighted mean of all code vectors, without the logits in memory."""
