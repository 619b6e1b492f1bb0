"""Networks of users: `open_network` opens every kind of source, and `NetworkOptions` adapts inputs and outputs.

To add a kind of source, write an opener beside the others and call it in opening.py.
"""

from __future__ import annotations

from nas.analysis.networks.opening import open_network
from nas.analysis.networks.options import NetworkOptions

__all__ = ["NetworkOptions", "open_network"]
