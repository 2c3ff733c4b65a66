"""What fired before: an embedded store in columns, its writer, its retention, and the queries over it."""
