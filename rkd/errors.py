"""Errors that a user can fix: the message says what went wrong, why, and what to do next.

This module imports nothing, so that a command can name these errors before it loads PyTorch.
"""


class UserError(RuntimeError):
    """The base of all errors that a user can fix; the message is complete, and no traceback is needed."""


class JobError(UserError):
    """The job failed for a reason that its message tells in full."""


class ArtifactError(UserError):
    """An artifact is damaged, or its folder cannot be written; the message says what to do."""


class TrainingDivergedError(UserError):
    """A logged metric is no longer finite; the message names stage, step, metric and what to change."""


class RewardFunctionError(UserError):
    """A user's reward function gave no usable rewards; the message names the function, the response and the value."""


class LabelNoiseError(UserError):
    """By their votes, the labels say too little about which responses are right; the message says what to do."""


class TrackingError(UserError):
    """The backend refused to start; the message says what to do."""


class FollowerError(UserError):
    """A follower process has failed; the message says how it ended."""


class EndpointError(UserError):
    """A server cannot be used, or its budget is spent; the message says what to do, and holds no key."""


class EngineError(UserError):
    """An engine in a process of its own cannot be used; the message has its last words."""


class ModelError(UserError):
    """A model or its tokenizer does not fit what it is asked; the message says what to do."""


class ExportError(UserError):
    """A job cannot be handed over, or the hub does not take it; the message says what to do."""


class UsageError(UserError):
    """A command was given arguments that do not fit; the message says what to give."""
