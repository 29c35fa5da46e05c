"""Version 1 of the wire: see worker.proto."""
