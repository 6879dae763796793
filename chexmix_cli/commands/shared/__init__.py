"""What all commands share: how one is declared, the common options, the console, tables."""
