"""What stands below everything else: errors, checks of arguments, limits of memory, names of objects."""
