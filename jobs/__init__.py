"""One file per verb, for `ray job submit`."""
