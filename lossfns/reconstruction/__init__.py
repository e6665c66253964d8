"""Reconstruction losses: denoising, masked images, autoencoders, diffusion and flow matching."""
