from .environment import environment_report as environment_report
from .run import self_test as self_test
from .subject import Check as Check
