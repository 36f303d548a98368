"""Fused CPU kernels: `build` compiles them, `forms` decides when they run, `training` holds those with gradients."""
