"""One `spd-bench run`: from a suite to trained, scored and recorded compositions."""
