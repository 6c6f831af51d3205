"""What is learnt after pretraining: answers, by one's own model; a manner, by an adapter of another's."""
