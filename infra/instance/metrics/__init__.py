"""Finds what a program of the user's own measures, without a line in it, and writes it down in one form.

A process of its own beside the watch process (`python -m infra.instance.metrics`): a pattern that never ends, or a file
that is made to confuse, must not stop what saves and ends the machine. Standard library only, Python 3.8 and later.
"""
