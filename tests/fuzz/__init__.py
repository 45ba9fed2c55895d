"""Hostile requests and files by the thousand, for a real server and for `unisono doctor`: ``make fuzz``.

Hypothesis makes the cases, of known structures. Guiding bytes by coverage (Atheris) was tried on what Python parses:
on ensemble files and heads of weights 290,000 inputs found nothing. The rest is native code, which it does not see.
"""
