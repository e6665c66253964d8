"""Joint-embedding losses: two views of an example, without negatives."""

from lossfns.joint_embedding.barlow_vicreg import barlow_twins as barlow_twins
from lossfns.joint_embedding.barlow_vicreg import vicreg as vicreg
from lossfns.joint_embedding.barlow_vicreg import wmse as wmse
from lossfns.joint_embedding.byol import byol as byol
from lossfns.joint_embedding.byol import data2vec as data2vec
from lossfns.joint_embedding.byol import simsiam as simsiam
from lossfns.joint_embedding.dino import dino as dino
from lossfns.joint_embedding.dino import dino_center as dino_center
from lossfns.joint_embedding.dino import ibot as ibot
from lossfns.joint_embedding.dino import linear_dino as linear_dino
from lossfns.joint_embedding.spreading import koleo as koleo
from lossfns.joint_embedding.spreading import sigreg as sigreg
from lossfns.joint_embedding.swav import msn as msn
from lossfns.joint_embedding.swav import sinkhorn as sinkhorn
from lossfns.joint_embedding.swav import swav as swav
