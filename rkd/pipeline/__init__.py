"""The pipeline: one row of a table from top to bottom, each step through the store."""
