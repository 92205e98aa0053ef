"""Names for classes without a list of names, and its command; may import ranking, report and below."""
