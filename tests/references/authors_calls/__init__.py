"""Which code of the authors of a loss is which loss here. Nothing in it imports torch: each call gets it."""

from tests.references.authors_calls import preferences, reinforcement, targets, views
from tests.references.authors_calls.call import Call as Call

CALLS = views.CALLS | preferences.CALLS | reinforcement.CALLS | targets.CALLS
