"""Hostile requests and files by the thousand, for a real server and for `unisono doctor`: ``make fuzz``."""
