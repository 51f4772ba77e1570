"""From logits to an answer: sampling, stop strings, and the loop that drives a decoder."""
