"""What `verify` looks at, one thing a module: log, tables, shards, statistics, files, the model."""
