"""Jobs: run one job, estimate its time and cost, sweep many jobs, search for settings, and manage the store."""
