"""`spd-bench export`: a trained run as one folder that other programs can use."""
