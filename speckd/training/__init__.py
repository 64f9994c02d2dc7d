"""The machine that trains: transformers' Trainer with the gate, its data, checkpoints, teacher cache and probe."""
