"""Talk to it: the OpenAI-compatible client, the first token measured, and the receipts that keep what was proven."""
