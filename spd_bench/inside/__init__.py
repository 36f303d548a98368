"""`spd-bench inspect`: what a trained composition looked at for one point of an image."""
