"""What all commands share: options, console, tables, the opened model."""
