"""The terminal interface: watches runs through their folders, steers them through their sockets, never imports torch."""
