"""Results made to be looked at: pictures."""
