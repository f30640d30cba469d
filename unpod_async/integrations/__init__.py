"""What connects the client with other frameworks: one file each, each in an extra of its own."""
