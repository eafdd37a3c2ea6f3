"""How files are opened, and how what stands in them is read: by every room, knowing none."""
