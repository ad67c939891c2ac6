"""Whole jobs under faults that a seed chooses, on real Ray and a real S3 server: `python -m tests.chaos --help`."""
