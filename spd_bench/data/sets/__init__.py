"""Every data set layout that ships with the harness, each a registered component."""
