"""`spd-bench profile`: what a suite's models cost, with tables and figures."""
