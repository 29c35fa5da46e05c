"""The command line: generates, starts local workers, and observes what they do."""
