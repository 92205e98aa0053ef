"""The demo page in a browser; may import all other rooms."""
