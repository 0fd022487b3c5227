"""Reporting: results become tables, figures, notebooks and W&B views."""
