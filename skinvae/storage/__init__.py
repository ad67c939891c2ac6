"""The only code that opens a path or URI: files, model bundle, score table."""
