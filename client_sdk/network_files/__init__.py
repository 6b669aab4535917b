"""The signed network file of a client: following it, and the commands of `umay client network`."""
