"""The store: the outputs of stages on disk, each under a fingerprint of everything that decides its content."""
