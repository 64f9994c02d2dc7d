"""The page: components and events over speckd. Imports point one way: tabs -> engine, figures, panels -> speckd."""
