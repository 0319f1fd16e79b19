"""Lock files: what every build of the catalogue installs, to the last file and its hash."""
