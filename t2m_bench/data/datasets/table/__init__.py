"""A data set of any layout, by a table of its images, masks and patients."""
