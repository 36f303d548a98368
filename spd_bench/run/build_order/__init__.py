"""The paper plan's build order (§10.3) as gates: its steps, their checks and its page."""
