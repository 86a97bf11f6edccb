"""The command ``l2p``, one file a command: parse, resolve settings, one library call, one printed result."""
