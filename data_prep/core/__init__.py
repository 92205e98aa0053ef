"""What every room may use: records, names, images, files, errors, commands; without torch or settings."""
