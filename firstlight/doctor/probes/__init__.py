"""What is looked at beside the machine's facts: one module per subject, `read` touches the machine, `parse` is pure."""
