"""The report as one HTML file: what it says, as plain data, and the page that shows it."""
