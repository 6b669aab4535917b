"""The network, bounded: one way to ask over HTTP (http), by which route (route), how long
(timing), and when to ask again (again); one way to serve (serve), and what any web page may read
(cors)."""
