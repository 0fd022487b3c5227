"""The page of a report: results of jobs become one HTML file for the browser."""
