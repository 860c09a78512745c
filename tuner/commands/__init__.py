"""One file for each group of commands; what is heavy is imported inside them."""
