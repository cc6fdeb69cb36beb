"""What the system refuses when files are written, as errors with the file's name and what to do."""
