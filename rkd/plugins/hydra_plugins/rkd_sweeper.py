"""The sweeper under the name that Hydra looks for plugins by; `run.py` puts this folder's parent on the path."""

from rkd.jobs.sweeper import UnionSweeper


class TableSweeper(UnionSweeper):
    """See `rkd.jobs.sweeper`."""
