"""Lists of URIs."""
