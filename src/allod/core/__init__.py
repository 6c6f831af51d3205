"""What our words mean: errors, canonical bytes, labels, requests, statements. Standard library only."""
