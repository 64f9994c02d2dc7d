"""The gate inside trainers that are not transformers' own: one file a library, named after it."""
