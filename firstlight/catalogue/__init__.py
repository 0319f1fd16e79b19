"""What exists: the builds of every engine, read from `envs/`."""
