"""The terminal interface.  It reads runs from their folders and steers them through their sockets.  It never imports torch."""
