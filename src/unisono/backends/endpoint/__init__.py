"""Members that live behind an HTTP endpoint: a serving engine, or a worker on another machine."""
