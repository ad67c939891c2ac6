"""What storage alone tells of a table: how far the jobs on it are, and whether all of it is right. Writes nothing."""
