"""Encodes cases and sentences with the frozen encoders, and stores the embeddings."""
