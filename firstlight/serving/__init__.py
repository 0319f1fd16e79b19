"""Keep it running: ports, servers that are watched while they start, detached servers, and the true cause in a log."""
