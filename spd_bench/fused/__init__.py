"""Fused kernels for a CPU: their build, forms for inference, and forms with gradients for training."""
