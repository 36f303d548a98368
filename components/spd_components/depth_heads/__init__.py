"""components/spd_components/depth_heads."""
