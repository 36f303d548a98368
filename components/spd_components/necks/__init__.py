"""components/spd_components/necks."""
