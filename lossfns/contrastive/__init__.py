"""Contrastive losses: an example is told from the other examples of the batch."""

from lossfns.contrastive.views import nt_xent as nt_xent
