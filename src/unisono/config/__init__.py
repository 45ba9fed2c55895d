"""The ensemble file: what it may say, how it is written, and the records that come of it."""
