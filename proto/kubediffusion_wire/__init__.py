"""What both ends of the wire need on top of the generated code."""
