"""Sources of images: readers, one file a source."""
