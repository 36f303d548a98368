"""Pictures of depth for the report: which images, what is drawn, and what a model renders for them."""
