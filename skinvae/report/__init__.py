"""Results -> terminal tables, figures and the page to show."""
