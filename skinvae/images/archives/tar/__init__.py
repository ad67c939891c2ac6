"""Tar archives, compressed or not."""
