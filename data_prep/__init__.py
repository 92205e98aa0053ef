"""From labelled images to a memory and ranking examples; imports neither of the other packages."""
