"""The only Ray code."""
