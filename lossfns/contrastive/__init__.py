"""Contrastive losses: an example is told from the other examples of the batch."""

from lossfns.contrastive.pairs import clip as clip
from lossfns.contrastive.pairs import info_nce as info_nce
from lossfns.contrastive.pairs import siglip as siglip
from lossfns.contrastive.queues import Enqueued as Enqueued
from lossfns.contrastive.queues import enqueue as enqueue
from lossfns.contrastive.queues import moco as moco
from lossfns.contrastive.queues import moco_v3 as moco_v3
from lossfns.contrastive.supervised import sup_con as sup_con
from lossfns.contrastive.views import nt_xent as nt_xent
