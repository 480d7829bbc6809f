"""The version of d2kd, which the package, its files and setup.py share."""

__version__ = "0.1.0"
