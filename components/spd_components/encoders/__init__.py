"""components/spd_components/encoders."""
