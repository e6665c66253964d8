"""The two ways a run can end badly: the user can mend it, or the run itself failed."""


class UsageError(ValueError):
    """Something the user can mend; the message says what was expected, what came and what to do."""


class RunFailed(RuntimeError):
    """A run that cannot go on (a loss that is not finite, a lost device); what was saved so far is intact."""
