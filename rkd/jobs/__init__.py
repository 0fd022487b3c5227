"""Jobs: run one, say before what it takes, sweep many, search for settings, keep the store in order."""
