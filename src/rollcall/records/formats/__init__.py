"""One file per format; each is a module with the shape that `reader.Format` draws. They never import each other."""
