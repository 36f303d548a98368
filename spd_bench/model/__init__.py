"""Models of a suite: building and checking them, matching their widths, describing and diagnosing them."""
