"""The store: what stages made, kept on disk under a fingerprint of all that decides it."""
