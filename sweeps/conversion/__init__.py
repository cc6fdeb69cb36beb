"""A workflow as ComfyUI's page saves it (UI form), in the form that the page sends to the server (API form).

The rules are those of the front ends 1.45 to 1.47 (ComfyUI 0.24.0 to 0.30.0). What cannot be known without the page,
such as values that the browser or a pack's JavaScript makes, is refused.
"""

from .errors import MissingNodes, NotConvertible
from .front_ends import front_end_of
from .prompt import Converted, ShownWidget, convert

__all__ = ["Converted", "MissingNodes", "NotConvertible", "ShownWidget", "convert", "front_end_of"]
