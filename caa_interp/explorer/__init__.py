"""The explorer of steering vectors, a widget for JupyterLab.

:mod:`explore` checks what it is given and needs no widget library; :mod:`widget` is the widget: choices on top, both
answers side by side, figures below. Answers come token by token from :func:`caa_interp.steering.stream_answer`.
Begin reading at :mod:`caa_interp.explorer.explore`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
