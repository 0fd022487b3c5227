"""The pipeline: one row of a table from the first step to the last, each step through the store."""
