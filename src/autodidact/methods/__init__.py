"""Methods: one file, one paper, one factory function of the file's name."""
