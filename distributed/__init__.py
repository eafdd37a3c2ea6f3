"""What processes of one start have to do with one another: collectives, and where they agree without one."""
