"""A record to come, batches of them, and processes that prepare them."""
