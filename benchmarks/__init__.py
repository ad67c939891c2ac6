"""Timings, as ratios taken in one run. Each has a floor, and fails below it."""
