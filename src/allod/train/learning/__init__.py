"""How a network learns: batches, rates, ranks and checkpoints, each a function of seed and step."""
