"""Speculative decoding: a draft proposes, the teacher verifies, round by round, and every round is recorded."""
