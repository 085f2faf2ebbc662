"""Downloads, continued where they were cut and checked."""
