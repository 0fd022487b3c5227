"""The sweeper under the name that Hydra looks for plugins by: modules of `hydra_plugins`, a package without a file."""

from rkd.jobs.sweeper import UnionSweeper


class TableSweeper(UnionSweeper):
    """See `rkd.jobs.sweeper`."""
