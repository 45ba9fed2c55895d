"""The loop that makes several members write one text."""
