"""Pooling: one number from each window of each channel."""
