"""The steps that bring a database to the schema of this version. A step that was released never changes."""
