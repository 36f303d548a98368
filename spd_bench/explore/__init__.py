"""`spd-bench explore`: a page on this machine that shows depth at clicked pixels of images, by trained runs."""
