"""Results -> terminal tables and figures."""
