"""The one error of the converter: what is wrong, where, and what to do about it."""


class Refused(Exception):
    """The input cannot become an export; the message says why and what to do."""
