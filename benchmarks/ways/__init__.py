"""The same images scored in the ways that people would: each a process of its own, `python -m benchmarks.ways`."""
