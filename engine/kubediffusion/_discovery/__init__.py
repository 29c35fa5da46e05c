"""Discovery: where an external executor learns of workers."""
