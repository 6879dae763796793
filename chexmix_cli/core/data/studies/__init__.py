"""Inputs as a user names them, to studies with a chosen image."""
