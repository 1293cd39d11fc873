"""What goes into the sandbox, beside the book's package: the launcher of the kernel, and a stand-in for the checks."""
