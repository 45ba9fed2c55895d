"""What token ids mean: pieces, the union vocabulary, spelling."""
