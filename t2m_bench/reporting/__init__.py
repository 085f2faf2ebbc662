"""Turns the per-case results table into tables, figures and pages; never imports torch."""
