"""The page that shows every vote: its files, a recorded trace for it, and one file that holds both."""
