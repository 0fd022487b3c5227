"""Training: how any stage trains, resumes, logs and keeps its curves."""
