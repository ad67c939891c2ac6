"""Parquet files that hold images."""
