"""What a model costs: time, multiply-adds and memory."""
