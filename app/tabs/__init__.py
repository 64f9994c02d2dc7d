"""The tabs of the page: components first, events last."""
