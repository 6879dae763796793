"""Evaluation: metrics, protocols, intervals. Every number says by what protocol it was made."""
