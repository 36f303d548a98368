"""components/spd_components/blocks."""
