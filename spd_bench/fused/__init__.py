"""Fused CPU kernels: their build, the forms for inference, and the forms with gradients for training."""
