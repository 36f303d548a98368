"""`spd-bench profile`: measures the costs of a suite's models, with tables and figures."""
