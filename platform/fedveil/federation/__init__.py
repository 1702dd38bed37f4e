"""What both sides derive from one configuration, and the loop they train with; functions of public values alone."""
