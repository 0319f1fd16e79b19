"""An engine that stays: from a wish to a service that is installed, started, proven, updated and taken away again."""

from __future__ import annotations

from firstlight.staying.installing import Installed, install_service
from firstlight.staying.wish import Wish

__all__ = ["Installed", "Wish", "install_service"]
