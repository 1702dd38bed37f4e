"""What a configuration is made of: its typed shape, the words of the command line, methods by name."""
