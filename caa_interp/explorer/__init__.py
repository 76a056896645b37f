"""The explorer of steering vectors, a widget for JupyterLab.

:mod:`explore` checks what it is given and needs no widget library; :mod:`trials` holds what is asked for, written and
read; :mod:`markup` makes HTML from these tables; :mod:`widget` is the widget. Answers come token by token from
:func:`caa_interp.steering.stream_answer`, and a tree reads each of them once more, unsteered and steered.
Begin reading at :mod:`caa_interp.explorer.explore`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
