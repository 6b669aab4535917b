"""The network, bounded: one way to ask over HTTP (http), by which route (route), how long
(timing), and when to ask again (again)."""
