"""Services: an engine that outlives the terminal, the crash and the reboot."""
