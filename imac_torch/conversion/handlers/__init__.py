"""What modules of torch are made of, as far as arrays are concerned: a file per family."""
