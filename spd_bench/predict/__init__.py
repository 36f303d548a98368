"""`spd-bench predict`: which run, which images, which points, and how the depths are shown."""
