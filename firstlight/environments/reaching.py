"""How this user reaches the network: as the pip configuration says, else as the environment does."""

from __future__ import annotations

from firstlight.environments.pipconfig import PipSettings, read_pip_settings
from firstlight.fetching.types import Transport


def transport_of(settings: PipSettings | None = None) -> Transport:
    """Return how the network is reached: proxy and certificates of pip's configuration are those of this network."""
    own = read_pip_settings() if settings is None else settings
    return Transport(proxy=own.proxy, cert=own.cert, client_cert=own.client_cert, trusted_hosts=own.trusted_hosts)
