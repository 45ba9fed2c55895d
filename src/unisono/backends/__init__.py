"""One adapter a library, behind one narrow protocol."""
