"""The gated loss at the speed of its matrix products. ``speckd.loss`` is the only file outside that calls this."""
