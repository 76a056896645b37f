from .estimate import estimate_reproduction as estimate_reproduction
from .published import numbers as numbers
from .reproduction import reproduce as reproduce
from .sets import read_published_sets as read_published_sets
from .table import compare as compare
