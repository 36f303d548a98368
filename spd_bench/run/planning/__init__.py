"""From a suite to its jobs: what this machine can run, models checked, identities, failures of components."""
