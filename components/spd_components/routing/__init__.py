"""components/spd_components/routing."""
