"""Checks for faults that silently ruin a steering study, on this model and this machine.

A vector that is added twice, to no generated token, or one layer off raises no error. So :func:`self_test` compares
what this package computes with plain passes written independently here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
