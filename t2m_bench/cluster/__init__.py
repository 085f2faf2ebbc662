"""The only Ray code: sessions, training and embedding on many processes."""
