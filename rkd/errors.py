"""Errors that a user can mend: the message says what went wrong, why, and what to do next."""


class JobError(RuntimeError):
    """The job failed for a reason that its message tells in full."""


class ArtifactError(RuntimeError):
    """An artifact is damaged, or its folder cannot be written; the message says what to do."""


class TrainingDivergedError(RuntimeError):
    """A logged metric is no longer finite; the message names stage, step, metric and what to change."""


class TrackingError(RuntimeError):
    """The backend refused to start; the message says what to do."""


class FollowerError(RuntimeError):
    """A process that was started to help has failed; the message has its last words."""


class EndpointError(RuntimeError):
    """A server cannot be used, or its budget is spent; the message says what to do, and holds no key."""
