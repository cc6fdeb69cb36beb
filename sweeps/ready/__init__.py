"""What ready plans need before they run, made out of files that others have published."""
