"""Labels any number of images with a tuned run, and its command; may import recognition, discover, report and below."""
