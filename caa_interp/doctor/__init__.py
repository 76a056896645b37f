"""What silently ruins a steering study, measured on the model and the machine at hand.

A vector that is added twice, to no generated token, or one layer off raises no error: the answers are merely other
ones. :func:`self_test` holds what this package computes on a model against plain passes that are written out here
anew, and says by how much they differ; :func:`environment_report` says what is installed and what there is to run on.
"""

from caa_interp.doctor.environment import environment_report
from caa_interp.doctor.run import self_test
from caa_interp.doctor.subject import Check

__all__ = ["Check", "environment_report", "self_test"]
