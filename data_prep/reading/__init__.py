"""What the readers of data sets share: finding files, tables, splits, checks; may import armory's level and below."""
