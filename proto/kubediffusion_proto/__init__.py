"""The generated code of the wire between engines and workers."""
