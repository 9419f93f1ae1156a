"""What stands below everything else: errors, checks of arguments, limits of memory, names, nested structures."""
