"""From the per-case results table to tables, figures and pages; never imports torch."""
