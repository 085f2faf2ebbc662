"""Search spaces and their studies."""
