"""The demo page for a browser; may import all other packages of eval."""
