"""How long users wait: histograms of the time to the first token and between tokens, from whoever serves them."""
