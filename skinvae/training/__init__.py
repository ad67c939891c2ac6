"""Training in pure torch: what a worker does, on one processor or beside others; knows no Ray."""
