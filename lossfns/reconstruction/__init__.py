"""Reconstruction losses: denoising, masked images, autoencoders, diffusion and flow matching."""

from lossfns.reconstruction.generative import denoising_score_matching as denoising_score_matching
from lossfns.reconstruction.generative import diffusion as diffusion
from lossfns.reconstruction.generative import flow_matching as flow_matching
from lossfns.reconstruction.images import corrupt as corrupt
from lossfns.reconstruction.images import denoising as denoising
from lossfns.reconstruction.images import masked_patches as masked_patches
from lossfns.reconstruction.images import simmim as simmim
from lossfns.reconstruction.likelihood import beta_vae as beta_vae
