"""Holds all that decides a result, as data without torch."""
