"""A run as data, and from its recipe to its results."""
