"""What is here: facts about this machine, read by isolated probes and never guessed."""
